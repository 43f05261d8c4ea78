//! An argv as one line for the shell on the cluster, which sees each word as it is.

/// `exec` and the words, each quoted where it needs to be. With `exec` there is no shell left between Ray and the program: it is
/// stopped at once, and nothing outlives it.
pub(crate) fn entrypoint(command: &[String]) -> String {
    let mut line = "exec".to_owned();
    for (i, word) in command.iter().enumerate() {
        line.push(' ');
        quote(word, i == 0, &mut line);
    }
    line
}

/// A first word with `=` would be an assignment where it is not quoted.
fn quote(word: &str, first: bool, line: &mut String) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_@%+:,./-".contains(&b) || (b == b'=' && !first);
    if !word.is_empty() && word.bytes().all(plain) {
        line.push_str(word);
        return;
    }
    line.push('\'');
    line.push_str(&word.replace('\'', r"'\''"));
    line.push('\'');
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn line(words: &[&str]) -> String {
        entrypoint(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn plain_words_stay_as_they_are() {
        assert_eq!(
            line(&["python", "main.py", "--n=3", "a,b:/c"]),
            "exec python main.py --n=3 a,b:/c"
        );
        assert_eq!(line(&["A=1"]), "exec 'A=1'");
        assert_eq!(line(&["x", "", "it's", "$HOME"]), r"exec x '' 'it'\''s' '$HOME'");
    }

    #[test]
    fn the_shell_gives_back_every_word() {
        let words = [
            "", " ", "a b", "it's", "''", "\"", "\\", "$HOME", "$(id)", "`id`", "*", "?", "[a]", "~", "!",
            "#", "&", "|", ";", "<", ">", "(", ")", "{a,b}", "\n", "a\nb", "\t", "-n", "--", "=", "é", "%s",
            "\u{1}", "\\n",
        ];
        let mut all = vec!["printf", "<%s>"];
        all.extend(words);
        let output = Command::new("/bin/sh")
            .arg("-c")
            .arg(line(&all))
            .output()
            .unwrap();
        let expected: String = words.iter().map(|word| format!("<{word}>")).collect();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}
