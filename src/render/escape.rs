//! Escapes for systemd unit files (systemd.syntax(7), systemd.service(5) "Command lines").

/// Escapes a value for any line of a unit file but a command line: `%` becomes `%%`, a backslash or
/// double quote gets a backslash, and a control character (a newline would begin another setting)
/// becomes its C escape.
#[must_use]
pub fn value(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        push(&mut out, c);
    }
    out
}

/// Escapes one argument of a command line (`ExecStart=` and its kind) and puts it in quotes.
///
/// Besides what [`value`] escapes, `$` becomes `$$`: systemd would replace `$NAME`. The quotes keep
/// blanks, an empty argument and a lone `;` together.
#[must_use]
pub fn exec_argument(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 10);
    out.push('"');
    for c in text.chars() {
        match c {
            '$' => out.push_str("$$"),
            c => push(&mut out, c),
        }
    }
    out.push('"');
    out
}

fn push(out: &mut String, c: char) {
    match c {
        '%' => out.push_str("%%"),
        '\\' => out.push_str("\\\\"),
        '"' => out.push_str("\\\""),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
        c => out.push(c),
    }
}

/// A reader of unit files that is as naive about escapes as systemd is, for tests.
#[cfg(test)]
pub(crate) mod lexer {
    /// One setting: section, name and raw value.
    pub type Setting = (String, String, String);

    /// Splits a unit file into its settings, as systemd.syntax(7) says.
    pub fn settings(text: &str) -> Vec<Setting> {
        let mut section = String::new();
        let mut found = Vec::new();
        let mut lines = text.split('\n');
        while let Some(line) = lines.next() {
            let mut logical = line.to_owned();
            while logical.ends_with('\\') {
                logical.pop();
                logical.push(' ');
                logical.push_str(lines.next().unwrap_or_default().trim_start());
            }
            let line = logical.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name.to_owned();
            } else {
                let (name, value) = line.split_once('=').expect("a setting has a =");
                found.push((section.clone(), name.to_owned(), value.to_owned()));
            }
        }
        found
    }

    /// Splits a command line into its arguments and undoes every escape, as systemd does.
    pub fn arguments(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut chars = line.chars().peekable();
        loop {
            while chars.peek().is_some_and(|c| c.is_whitespace()) {
                chars.next();
            }
            if chars.peek().is_none() {
                return words;
            }
            let (mut word, mut quoted) = (Vec::new(), false);
            while let Some(c) = chars.next() {
                match c {
                    '"' => quoted = !quoted,
                    c if c.is_whitespace() && !quoted => break,
                    '\\' => match chars.next().expect("something follows a backslash") {
                        'n' => word.push(b'\n'),
                        'r' => word.push(b'\r'),
                        't' => word.push(b'\t'),
                        'x' => {
                            let hex: String = (0..2).filter_map(|_| chars.next()).collect();
                            word.push(u8::from_str_radix(&hex, 16).expect("two digits"));
                        }
                        c => word.extend(c.to_string().bytes()),
                    },
                    c => word.extend(c.to_string().bytes()),
                }
            }
            assert!(!quoted, "unbalanced quotes in {line}");
            let word = String::from_utf8(word).expect("UTF-8");
            assert!(
                !word.replace("%%", "").contains('%'),
                "a specifier in {word}"
            );
            assert!(
                !word.replace("$$", "").contains('$'),
                "a variable in {word}"
            );
            words.push(word.replace("%%", "%").replace("$$", "$"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn arguments() {
        let cases = [
            ("plain", r#""plain""#),
            ("", r#""""#),
            ("100%n $HOME", r#""100%%n $$HOME""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("x\n[Service]", r#""x\n[Service]""#),
            ("\u{7f}\u{1b}", r#""\x7f\x1b""#),
            ("ü🎉 ;", "\"ü🎉 ;\""),
        ];
        for (text, want) in cases {
            assert_eq!(exec_argument(text), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn an_argument_arrives_as_it_was(words in prop::collection::vec("[^\0]{0,40}|[%$\\\\\"';\n\r\t #]{0,12}", 0..6)) {
            let line = words.iter().map(|w| exec_argument(w)).collect::<Vec<_>>().join(" ");
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(lexer::arguments(&line), words);
        }

        #[test]
        fn a_value_stays_on_its_line(text in "[^\0]{0,60}") {
            let unit = format!("[Unit]\nDescription=x{}x\nAfter=y\n", value(&text));
            let found = lexer::settings(&unit);
            prop_assert_eq!(found.len(), 2);
            prop_assert_eq!(&found[1].2, "y");
        }
    }
}
