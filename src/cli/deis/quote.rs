//! Arguments as a line for a POSIX shell. Pure.

/// The line that a shell reads as these arguments; a single one is such a line already.
pub fn line(args: &[String]) -> String {
    match args {
        [line] => line.clone(),
        args => args
            .iter()
            .map(|arg| quoted(arg))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// One argument, in quotes when it needs them.
fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+".contains(c);
    // A word with = in the first place would be an assignment, and nobody minds its quotes elsewhere.
    if !arg.is_empty() && arg.chars().all(plain) {
        return arg.to_owned();
    }
    format!("'{}'", arg.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines() {
        let cases: &[(&[&str], &str)] = &[
            (&["echo $HOME | wc"], "echo $HOME | wc"),
            (&["ls", "-la"], "ls -la"),
            (&["echo", "a b", ""], "echo 'a b' ''"),
            (&["echo", "it's", "$x"], r"echo 'it'\''s' '$x'"),
            (&["A=1", "x"], "'A=1' x"),
            (&["~", "#", "!"], "'~' '#' '!'"),
        ];
        for (args, want) in cases {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            assert_eq!(line(&args), *want);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// A real shell reads them back as they were.
        #[test]
        fn a_shell_reads_them_as_they_were(args in prop::collection::vec("[^\0]{0,20}|[-'\"\\\\$`!*?~#&|;<>(){}\\[\\] \n\t=%]{0,8}", 1..5)) {
            let mut all = vec!["printf".to_owned(), "%s\\0".to_owned()];
            all.extend(args.clone());
            let ran = std::process::Command::new("bash").arg("-c").arg(line(&all)).output().expect("bash");
            let text = String::from_utf8(ran.stdout).expect("text");
            let back: Vec<&str> = text.split_terminator('\0').collect();
            prop_assert_eq!(back, args);
        }
    }
}
