//! The words that are run in a container for a command.
//!
//! Kubernetes neither kills a command when its caller leaves, nor (before server 1.30) lets a caller close standard
//! input alone. Where the container has a shell, the command is therefore started by a constant script: it says the
//! command's process id first, which is also its process group (the runtime makes each command a session of its
//! own), and then becomes the command. The command's words are positional parameters: none is ever shell text.

use std::collections::BTreeMap;

use agent_api_driver::model::{Error, Result, TerminalSize};

/// How a command gets its standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// None: it reads an end at once.
    Empty,
    /// A stream, ended by us.
    Stream,
    /// A terminal of this size at first.
    Terminal(TerminalSize),
}

/// What the script says instead of a process id where the program is not there.
pub(super) const MISSING: &str = "!";

/// `$0` is the program that must exist, `$@` what is run.
const DIRECT: &str = r#"command -v -- "$0" >/dev/null 2>&1 || { echo '!'; exit 127; }; echo "$$"; exec "$@""#;

/// `$1` and `$2` are the size of the terminal, the rest as for [`DIRECT`]. The server would set the size some time after
/// the command has started, and does so where there is no `stty`.
const TERMINAL: &str = r#"command -v -- "$0" >/dev/null 2>&1 || { echo '!'; exit 127; }; stty rows "$1" cols "$2" 2>/dev/null; shift 2; echo "$$"; exec "$@""#;

/// First reads how input comes: `p`, plainly, or `f`, in pieces of a line with their length and so many bytes, ended
/// by length 0. `dd` with blocks of one byte reads no byte too many.
const STREAM: &str = r#"command -v -- "$0" >/dev/null 2>&1 || { echo '!'; exit 127; }; echo "$$"; read -r mode; if [ "$mode" = p ]; then exec "$@"; fi; { { while read -r n && [ "$n" -gt 0 ]; do dd bs=1 count="$n"; done; } <&3 2>/dev/null & } 3<&0 | "$@""#;

/// `$0` is the process.
const KILL: &str = r#"kill -KILL -- "-$0" 2>/dev/null || kill -KILL "$0" 2>/dev/null || true"#;
/// `$0` is the signal, `$1` the process.
const SIGNAL: &str = r#"kill -"$0" "$1""#;

/// The command with its environment: Kubernetes has no environment for commands, so `env` of the container sets it.
pub(super) fn words(command: &[String], env: &BTreeMap<String, String>) -> Result<Vec<String>> {
    if command.first().is_none_or(String::is_empty) || command.iter().any(|word| word.contains('\0')) {
        return Err(Error::invalid(
            "command",
            "must name a program, and have no NUL byte",
        ));
    }
    let bad = |(key, value): (&String, &String)| {
        key.is_empty() || key.starts_with('-') || key.contains(['=', '\0']) || value.contains('\0')
    };
    if env.iter().any(bad) {
        return Err(Error::invalid(
            "env",
            "names must not be empty, begin with `-` nor have `=`, and nothing a NUL byte",
        ));
    }
    let mut words = Vec::with_capacity(command.len() + env.len() + 1);
    if !env.is_empty() {
        words.push("env".to_owned());
        words.extend(env.iter().map(|(key, value)| format!("{key}={value}")));
    }
    words.extend_from_slice(command);
    Ok(words)
}

/// The words under the script.
pub(super) fn wrapped(program: &str, words: Vec<String>, input: Input) -> Vec<String> {
    let script = match input {
        Input::Stream => STREAM,
        Input::Empty => DIRECT,
        Input::Terminal(_) => TERMINAL,
    };
    let mut all = ["sh", "-c", script, program].map(str::to_owned).to_vec();
    if let Input::Terminal(size) = input {
        all.extend([size.rows.to_string(), size.columns.to_string()]);
    }
    all.extend(words);
    all
}

/// Kills a process and its group.
pub(super) fn kill(pid: u32) -> Vec<String> {
    ["sh", "-c", KILL, &pid.to_string()].map(str::to_owned).into()
}

/// Sends a signal, by number, to the first process of a container.
pub(super) fn signal(number: i32, pid: u32) -> Vec<String> {
    ["sh", "-c", SIGNAL, &number.to_string(), &pid.to_string()]
        .map(str::to_owned)
        .into()
}

/// One piece of input for the pieces of [`STREAM`].
pub(super) fn piece(content: &[u8]) -> Vec<u8> {
    let mut piece = format!("{}\n", content.len()).into_bytes();
    piece.extend_from_slice(content);
    piece
}

/// The process id that the script says, from its first line; nothing where it is not whole yet, `Err` with what came
/// where it is none.
pub(super) fn pid(said: &[u8]) -> Option<std::result::Result<(u32, usize), String>> {
    let end = said.iter().position(|byte| *byte == b'\n')?;
    let line = String::from_utf8_lossy(&said[..end])
        .trim_end_matches('\r')
        .to_owned();
    Some(line.parse().map(|pid| (pid, end + 1)).map_err(|_| line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_command() {
        let command = vec!["printenv".to_owned(), "A; rm".to_owned()];
        assert_eq!(words(&command, &BTreeMap::new()).unwrap(), command);
        let env = BTreeMap::from([("A".to_owned(), "$HOME; b".to_owned())]);
        let all = words(&command, &env).unwrap();
        assert_eq!(all, ["env", "A=$HOME; b", "printenv", "A; rm"]);
        let direct = wrapped("printenv", all, Input::Empty);
        assert_eq!(
            &direct[3..],
            ["printenv", "env", "A=$HOME; b", "printenv", "A; rm"]
        );
        assert_eq!(direct[2], DIRECT);
        let size = TerminalSize {
            columns: 81,
            rows: 25,
        };
        let terminal = wrapped("top", vec!["top".to_owned()], Input::Terminal(size));
        assert_eq!(&terminal[2..], [TERMINAL, "top", "25", "81", "top"]);
        assert_eq!(words(&[], &env).unwrap_err().path(), Some("command"));
        assert_eq!(words(&["a\0".into()], &env).unwrap_err().path(), Some("command"));
        for bad in ["", "-i", "A=B"] {
            let env = BTreeMap::from([(bad.to_owned(), String::new())]);
            assert_eq!(words(&command, &env).unwrap_err().path(), Some("env"), "{bad:?}");
        }
    }

    #[test]
    fn process_ids() {
        assert_eq!(pid(b"12"), None);
        assert_eq!(pid(b"12\nrest"), Some(Ok((12, 3))));
        assert_eq!(pid(b"12\r\n"), Some(Ok((12, 4))));
        assert_eq!(pid(b"!\n"), Some(Err(MISSING.to_owned())));
        assert_eq!(piece(b"ab"), b"2\nab");
    }
}
