//! The one task of a head.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Head, Look};
use crate::shared::{Kinds, Shared};

/// Turns are at least so far apart, however often the task is woken.
const GAP: Duration = Duration::from_millis(20);
/// The first wait after a look that was not answered; it doubles.
const AWAY_FIRST: Duration = Duration::from_millis(500);
/// The longest wait between two looks at a head that does not answer.
const AWAY_MOST: Duration = Duration::from_secs(5);

/// Looks at the head and gives each kind its turn, until the driver closes. A head that nobody asked for is left alone.
pub(crate) async fn run(shared: Arc<Shared>, kinds: Kinds, head: Arc<Head>) {
    // What an earlier run of the agent left to be done begins at once.
    if shared.records.is_any().await {
        head.wake();
    }
    let mut due: Option<Instant> = None;
    let mut away = AWAY_FIRST;
    loop {
        let wait = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = head.wake.notified() => {}
            () = wait => {}
        }
        if !head.used.load(Ordering::Relaxed) {
            continue;
        }
        let began = Instant::now();
        let turn = async {
            let look = head.look().await;
            shared.push_health();
            if let Look::NewSession { before: Some(before) } = &look {
                let name = &head.name;
                tracing::warn!(
                    cluster = name,
                    before,
                    "the head was started anew without its state"
                );
            }
            let mut next = head.config.poll.idle;
            for kind in kinds.iter() {
                next = next.min(kind.tick(&head, &look).await);
            }
            (look, next)
        };
        let (look, next) = tokio::select! {
            () = shared.closing.cancelled() => return,
            turn = turn => turn,
        };
        let next = match look {
            Look::Away(_) => {
                let next = away;
                away = (away * 2).min(AWAY_MOST);
                next
            }
            _ => {
                away = AWAY_FIRST;
                next
            }
        };
        due = Some(Instant::now() + next);
        let rest = (began + GAP).saturating_duration_since(Instant::now());
        if !rest.is_zero() {
            tokio::select! {
                () = shared.closing.cancelled() => return,
                () = tokio::time::sleep(rest) => {}
            }
        }
    }
}
