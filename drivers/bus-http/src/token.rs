//! The token of the loopback port.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind as IoKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use agent_api_model::{Error, ErrorKind, Result};
use subtle::ConstantTimeEq;

const SHORTEST: usize = 16;

/// A secret that is never shown.
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    /// Whether this is the token. Takes the same time wherever the difference lies.
    pub(crate) fn is(&self, shown: &str) -> bool {
        self.0.as_bytes().ct_eq(shown.as_bytes()).into()
    }
}

/// Reads the token of a file that only its owner may read.
///
/// # Errors
///
/// `NotFound` where there is none, `Denied` where others may read it too, `Invalid` for a token of less than 16
/// characters or with other than visible ASCII ones.
pub fn read_token(path: &Path) -> Result<String> {
    let metadata = fs::metadata(path).map_err(|error| cannot("read", path, error))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(Error::new(
            ErrorKind::Denied,
            format!("the token file {} can be read by others", path.display()),
        )
        .with_hint(format!("chmod 600 {}", path.display())));
    }
    let text = fs::read_to_string(path).map_err(|error| cannot("read", path, error))?;
    let token = text.trim();
    if token.len() < SHORTEST || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "the token file {} has no token of at least {SHORTEST} visible ASCII characters",
                path.display()
            ),
        )
        .with_hint("remove the file, and the agent makes a new one"));
    }
    Ok(token.into())
}

/// Reads the token, and makes the file with a random one where it is not there.
pub(crate) fn token_of(path: &Path) -> Result<Token> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(mut file) => {
            let random: [u8; 32] = rand::random();
            let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(file, "{hex}")
                .and_then(|()| file.sync_all())
                .map_err(|error| cannot("write", path, error))?;
        }
        Err(error) if error.kind() == IoKind::AlreadyExists => {}
        Err(error) => return Err(cannot("make", path, error)),
    }
    read_token(path).map(Token)
}

fn cannot(what: &str, path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        IoKind::NotFound => ErrorKind::NotFound,
        IoKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(
        kind,
        format!("cannot {what} the token file {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_kept_to_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert_eq!(read_token(&path).unwrap_err().kind(), ErrorKind::NotFound);
        let made = token_of(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let text = read_token(&path).unwrap();
        assert_eq!(text.len(), 64);
        assert!(made.is(&text) && !made.is("") && !made.is(&text[1..]));
        assert!(token_of(&path).unwrap().is(&text), "the second start keeps it");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = token_of(&path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains("chmod 600"), "{error}");
        assert!(!error.to_string().contains(&text));
    }

    #[test]
    fn a_weak_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "short\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = read_token(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            !error.to_string().contains("short"),
            "the token is not shown: {error}"
        );
    }
}
