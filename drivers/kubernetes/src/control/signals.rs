//! Names of signals. A container has its own kernel interface: numbers are those of Linux.

const NAMES: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", KILL),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", STOP),
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

pub(super) const KILL: i32 = 9;
pub(super) const STOP: i32 = 19;

/// `SIGHUP`, `HUP` or `1`; 0 asks only whether the process is there.
pub(super) fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        let known = number == 0 || NAMES.iter().any(|(_, known)| *known == number);
        return (known && !text.starts_with(['+', '-'])).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn by_name_and_number() {
        for text in ["HUP", "SIGHUP", "hup", "1"] {
            assert_eq!(number(text), Some(1), "{text}");
        }
        assert_eq!(
            (number("0"), number("SIGCONT"), number("31")),
            (Some(0), Some(18), Some(31))
        );
        for text in [
            "",
            "SIGNOTHING",
            "-1",
            "+1",
            "4711",
            "SIGSIGHUP",
            "TERM; true",
            "sig term",
            "32",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
