//! Shell patterns of unit names: `*`, `?`, `[...]` and backslashes.

/// Whether `text` matches a shell pattern of `*`, `?` and `[...]`. Linear but for nested stars.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, t));
            p += 1;
        } else if let Some(next) = one(&pattern, p, text[t]) {
            p = next;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The position in the pattern after one that matches `c`.
fn one(pattern: &[char], at: usize, c: char) -> Option<usize> {
    match *pattern.get(at)? {
        '?' => Some(at + 1),
        '[' => {
            let end = at + 2 + pattern.get(at + 2..)?.iter().position(|c| *c == ']')?;
            let set = &pattern[at + 1..end];
            let (set, negated) = match set.split_first() {
                Some(('!' | '^', rest)) => (rest, true),
                _ => (set, false),
            };
            let mut hit = false;
            let mut rest = set;
            while let [first, tail @ ..] = rest {
                rest = match tail {
                    ['-', last, after @ ..] => {
                        hit |= (*first..=*last).contains(&c);
                        after
                    }
                    _ => {
                        hit |= *first == c;
                        tail
                    }
                };
            }
            (hit != negated).then_some(end + 1)
        }
        '\\' => (*pattern.get(at + 1)? == c).then_some(at + 2),
        literal => (literal == c).then_some(at + 1),
    }
}

/// What every text that matches begins with: all that stands before the first special character.
#[must_use]
pub fn literal_prefix(pattern: &str) -> &str {
    let end = pattern.find(['*', '?', '[', '\\']);
    end.map_or(pattern, |end| &pattern[..end])
}

/// Whether it is more than a name.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    literal_prefix(text).len() < text.len()
}
