//! Signals by name and number, as on Linux. Nothing here reaches a real process.

const NAMES: [(&str, u32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// What a signal does to a simulated object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing that is seen: the object handles it.
    None,
    /// It ends, unless it goes on when asked to end and this is only a request.
    Ends {
        /// Whether the object can ignore it.
        request: bool,
    },
    /// It is held still.
    Stops,
    /// It goes on.
    Continues,
}

/// The number of `SIGHUP`, `HUP` or `1`; 0 is known too.
pub(crate) fn number(signal: &str) -> Option<u32> {
    if let Ok(number) = signal.parse::<u32>() {
        let plain = signal.bytes().all(|byte| byte.is_ascii_digit());
        return (plain && number <= 31).then_some(number);
    }
    let name = signal.strip_prefix("SIG").unwrap_or(signal);
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

/// `SIGHUP` for 1; `0` for 0.
pub(crate) fn name(number: u32) -> String {
    NAMES
        .iter()
        .find(|(_, known)| *known == number)
        .map_or_else(|| number.to_string(), |(name, _)| format!("SIG{name}"))
}

pub(crate) fn effect(number: u32) -> Effect {
    match number {
        9 => Effect::Ends { request: false },
        2 | 3 | 15 => Effect::Ends { request: true },
        4 | 5 | 6 | 7 | 8 | 11 | 16 | 24 | 25 | 31 => Effect::Ends { request: false },
        19..=22 => Effect::Stops,
        18 => Effect::Continues,
        _ => Effect::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_numbers_and_both_names() {
        assert_eq!([number("1"), number("HUP"), number("SIGHUP")], [Some(1); 3]);
        assert_eq!(number("0"), Some(0));
        for bad in [
            "",
            "32",
            "-1",
            "+1",
            "hup",
            "SIGSIGHUP",
            "TERM; true",
            "99999999999",
        ] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
        assert_eq!((name(15), name(0)), ("SIGTERM".to_string(), "0".to_string()));
    }
}
