//! Users and groups by name or number, from `/etc/passwd` and `/etc/group`.
//!
//! Read directly: the C library's resolver may wait for a network directory and is not thread-safe everywhere. A user who is
//! known to a directory service only is given by number.

use std::fs;

/// A user id with the group id to go with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ids {
    pub uid: u32,
    pub gid: u32,
}

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    /// The login group; the same number as the user's where the user has no entry.
    pub gid: u32,
    pub name: Option<String>,
    pub home: Option<String>,
}

/// Looks a user up by name or number. The error is a sentence.
pub(crate) fn user(wanted: &str) -> Result<User, String> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    find_user(&text, wanted)
}

/// Looks a group up by name or number. The error is a sentence.
pub(crate) fn group(wanted: &str) -> Result<u32, String> {
    let text = fs::read_to_string("/etc/group").unwrap_or_default();
    find_group(&text, wanted)
}

fn find_user(passwd: &str, wanted: &str) -> Result<User, String> {
    let number = wanted.parse::<u32>().ok();
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else {
            continue;
        };
        let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
            continue;
        };
        if name == wanted || number == Some(uid) {
            return Ok(User {
                uid,
                gid,
                name: Some(name.to_owned()),
                home: Some(home.to_owned()),
            });
        }
    }
    match number {
        Some(u32::MAX) => Err("4294967295 is not a user id".to_owned()),
        Some(uid) => Ok(User {
            uid,
            gid: uid,
            name: None,
            home: None,
        }),
        None => Err(format!(
            "unknown user {wanted:?}: not in /etc/passwd; a user of a directory service is given by number"
        )),
    }
}

fn find_group(group: &str, wanted: &str) -> Result<u32, String> {
    let number = wanted.parse::<u32>().ok();
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, ..] = fields[..] else { continue };
        if name == wanted
            && let Ok(gid) = gid.parse()
        {
            return Ok(gid);
        }
    }
    match number {
        Some(u32::MAX) => Err("4294967295 is not a group id".to_owned()),
        Some(gid) => Ok(gid),
        None => Err(format!(
            "unknown group {wanted:?}: not in /etc/group; a group of a directory service is given by number"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nweb:x:33:44::/srv:/bin/false\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(find_user(PASSWD, "web").unwrap().gid, 44);
        assert_eq!(find_user(PASSWD, "33").unwrap().name.as_deref(), Some("web"));
        assert_eq!(find_user(PASSWD, "5000").unwrap().gid, 5000);
        assert!(
            find_user(PASSWD, "nobody-here")
                .unwrap_err()
                .contains("unknown user")
        );
        assert!(find_user(PASSWD, "4294967295").is_err());
    }

    #[test]
    fn groups_are_found_by_name_and_number() {
        assert_eq!(find_group("adm:x:4:\n", "adm"), Ok(4));
        assert_eq!(find_group("", "7"), Ok(7));
        assert!(find_group("", "wheel").is_err());
    }
}
