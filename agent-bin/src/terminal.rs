//! The terminal of this program: its size, and raw mode, in which each key goes to a command elsewhere.

use std::io;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use agent_api_model::TerminalSize;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The terminal's state before raw mode, while that lasts.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode of the terminal on standard input, for as long as this lives. Ends with a panic too, before that is printed.
pub(crate) struct Raw(());

impl Raw {
    /// Enters raw mode.
    pub(crate) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let earlier = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                earlier(info);
            }));
        });
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *saved() = Some(before);
        let entered = Self(());
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(entered)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(before) = saved().take() {
        // A terminal that is gone needs it no more.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}

fn saved() -> MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The size of the terminal that this program is on; 80 by 24 where it has none.
pub(crate) fn size() -> TerminalSize {
    [stdout(), stdin(), stderr()]
        .into_iter()
        .filter_map(|fd| tcgetwinsize(fd).ok())
        .find(|size| size.ws_col > 0 && size.ws_row > 0)
        .map_or(
            TerminalSize {
                columns: 80,
                rows: 24,
            },
            |size| TerminalSize {
                columns: size.ws_col,
                rows: size.ws_row,
            },
        )
}
