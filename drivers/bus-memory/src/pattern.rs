//! Patterns of topics.

use agent_api_model::{Error, Result};

/// Checks a pattern of topics: words as in a topic, `*` for any one word, `>` as the last word for one or more.
///
/// # Errors
///
/// `Invalid` with what a pattern looks like.
pub fn check_pattern(pattern: &str) -> Result<()> {
    let plain = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    let words = pattern.split('.').count();
    let fits = pattern.len() <= 255
        && pattern
            .split('.')
            .enumerate()
            .all(|(i, word)| word == "*" || plain(word) || (word == ">" && i + 1 == words));
    if fits {
        return Ok(());
    }
    let cut: String = pattern.chars().take(80).collect();
    Err(Error::invalid(
        "pattern",
        format!(
            "{cut:?} is not a pattern of topics; write for example agent.out.>, with * for one word and > as the last \
             for one or more"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_words() {
        for good in ["a", "a.b", "*", ">", "a.*.c", "a.>", "agent.out.a1.status.>"] {
            assert!(check_pattern(good).is_ok(), "{good:?}");
        }
        for bad in ["", ".", "a.", "a.>.b", "a*", "a b", ">>", "ä", &"x".repeat(256)] {
            assert!(check_pattern(bad).is_err(), "{bad:?}");
        }
    }
}
