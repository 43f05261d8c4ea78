//! Credentials, read at each connect.

use std::path::Path;
use std::time::Duration;

use agent_api_model::{Error, ErrorKind, Result, Timestamp};
use async_nats::{Auth, AuthError};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;

use crate::config::Credentials;

/// The answer to a server's challenge. The files are small and local, so that reading them holds nobody up.
pub(crate) fn answer(credentials: &Credentials, nonce: &[u8]) -> Result<Auth, AuthError> {
    let mut auth = Auth::new();
    match credentials {
        Credentials::None => {}
        Credentials::Password { user, file } => {
            auth.username = Some(user.clone());
            auth.password = Some(secret(file)?);
        }
        Credentials::Token { file } => auth.token = Some(secret(file)?),
        Credentials::Nkey { file } => {
            let key = key(&secret(file)?, file)?;
            auth.nkey = Some(key.public_key());
            auth.signature = Some(sign(&key, nonce, file)?);
        }
        Credentials::Creds { file } => {
            let text = secret(file)?;
            let (jwt, seed) = parts(&text)
                .ok_or_else(|| AuthError::new(format!("{} is not a credentials file", file.display())))?;
            let key = key(seed, file)?;
            auth.signature = Some(sign(&key, nonce, file)?);
            auth.jwt = Some(jwt.into());
        }
    }
    Ok(auth)
}

/// Whether the credentials can be read, before a connection is tried.
pub(crate) fn check(credentials: &Credentials) -> Result<()> {
    match answer(credentials, b"check") {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::new(ErrorKind::Denied, error.to_string())
            .with_operation("bus.connect")
            .with_hint("the bus needs the credentials that its configuration names")),
    }
}

/// When the token in a credentials file was made and when it expires; none where it never does.
pub(crate) fn lifetime(credentials: &Credentials) -> Option<(Timestamp, Timestamp)> {
    let Credentials::Creds { file } = credentials else {
        return None;
    };
    let text = secret(file).ok()?;
    let (jwt, _) = parts(&text)?;
    let claims = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let seconds = |name: &str| {
        claims[name]
            .as_i64()
            .map(|s| Timestamp::from_micros(s.saturating_mul(1_000_000)))
    };
    Some((
        seconds("iat")?,
        seconds("exp").filter(|at| *at > Timestamp::EPOCH)?,
    ))
}

/// How long until a token should be renewed: at 80 % of its life, and where that has passed, soon.
pub(crate) fn renew_in(made: Timestamp, expires: Timestamp, now: Timestamp) -> Duration {
    let life = expires.since(made);
    let at = made.plus(life.mul_f64(0.8));
    at.since(now).max(life.mul_f64(0.05)).max(Duration::from_secs(1))
}

fn secret(file: &Path) -> Result<String, AuthError> {
    std::fs::read_to_string(file)
        .map(|text| text.trim().to_owned())
        .map_err(|error| AuthError::new(format!("cannot read {}: {error}", file.display())))
}

fn key(seed: &str, file: &Path) -> Result<KeyPair, AuthError> {
    KeyPair::from_seed(seed)
        .map_err(|_| AuthError::new(format!("{} holds no seed of an nkey", file.display())))
}

fn sign(key: &KeyPair, nonce: &[u8], file: &Path) -> Result<Vec<u8>, AuthError> {
    key.sign(nonce)
        .map_err(|_| AuthError::new(format!("the key of {} cannot sign", file.display())))
}

/// Token and seed of a credentials file: what stands between its marks.
fn parts(text: &str) -> Option<(&str, &str)> {
    let between = |mark: &str| {
        let (_, rest) = text.split_once(&format!("BEGIN {mark}"))?;
        let (_, rest) = rest.split_once('\n')?;
        let (inside, _) = rest.split_once("---")?;
        Some(inside.trim_matches(['-', '\r', '\n', ' ']))
    };
    let (jwt, seed) = (between("NATS USER JWT")?, between("USER NKEY SEED")?);
    (!jwt.is_empty() && !seed.is_empty()).then_some((jwt, seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creds(exp: i64) -> String {
        let claims = URL_SAFE_NO_PAD.encode(format!("{{\"iat\":1000,\"exp\":{exp}}}"));
        let seed = KeyPair::new_user().seed().unwrap();
        format!(
            "-----BEGIN NATS USER JWT-----\nhead.{claims}.sig\n------END NATS USER JWT------\n\nkeep it\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }

    #[test]
    fn a_credentials_file_is_read_anew_and_its_end_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a1.creds");
        let credentials = Credentials::Creds { file: file.clone() };
        let error = check(&credentials).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains("a1.creds"), "{error}");
        std::fs::write(&file, creds(2_000)).unwrap();
        let auth = answer(&credentials, b"nonce").unwrap();
        assert!(auth.jwt.unwrap().starts_with("head."));
        assert_eq!(auth.signature.unwrap().len(), 64);
        let seconds = |s: i64| Timestamp::from_micros(s * 1_000_000);
        assert_eq!(lifetime(&credentials), Some((seconds(1_000), seconds(2_000))));
        std::fs::write(&file, creds(3_000)).unwrap();
        assert_eq!(lifetime(&credentials), Some((seconds(1_000), seconds(3_000))));
        std::fs::write(&file, creds(0)).unwrap();
        assert_eq!(lifetime(&credentials), None, "one without an end");
        std::fs::write(&file, "SUsecret").unwrap();
        let error = check(&credentials).unwrap_err();
        assert!(!format!("{error:?}").contains("SUsecret"), "{error:?}");
    }

    #[test]
    fn tokens_are_renewed_before_they_expire_and_never_in_a_hot_loop() {
        let at = |s: i64| Timestamp::from_micros(s * 1_000_000);
        assert_eq!(renew_in(at(0), at(1_000), at(0)), Duration::from_secs(800));
        assert_eq!(renew_in(at(0), at(1_000), at(900)), Duration::from_secs(50));
        assert_eq!(renew_in(at(0), at(5), at(100)), Duration::from_secs(1));
    }

    #[test]
    fn a_seed_signs_and_a_wrong_one_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seed");
        let key = KeyPair::new_user();
        std::fs::write(&file, key.seed().unwrap() + "\n").unwrap();
        let auth = answer(&Credentials::Nkey { file: file.clone() }, b"nonce").unwrap();
        assert_eq!(auth.nkey, Some(key.public_key()));
        std::fs::write(&file, "SUNOTASEED").unwrap();
        let error = check(&Credentials::Nkey { file }).unwrap_err();
        assert!(!format!("{error:?}").contains("SUNOTASEED"));
    }
}
