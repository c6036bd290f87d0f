//! A reader of Prometheus's text form that forgives nothing, for tests: every family has its help and
//! type before its samples and stands in one block, no sample is there twice, counters end in
//! `_total`, histograms are whole.

use std::collections::{BTreeMap, BTreeSet};

/// Labels, by name.
type Set = BTreeMap<String, String>;

/// A family of samples.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    name: String,
    samples: BTreeMap<(String, Set), f64>,
}

impl Family {
    /// The sample with exactly these labels.
    pub fn value(&self, labels: &[(&str, &str)]) -> Option<f64> {
        self.part("", labels)
    }

    /// The same of a part of a histogram.
    pub fn part(&self, suffix: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let key = (
            format!("{}{suffix}", self.name),
            labels.iter().map(owned).collect(),
        );
        self.samples.get(&key).copied()
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }
}

/// Reads a page whole.
pub fn read(text: &str) -> Result<BTreeMap<String, Family>, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line has no end".into());
    }
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current: Option<String> = None;
    let mut helped: Option<String> = None;
    for line in text.split('\n').filter(|line| !line.is_empty()) {
        let fail = |why: &str| format!("{why}: {line:?}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or_else(|| fail("no help text"))?;
            check_name(name)?;
            unescape(help, false)?;
            if families.contains_key(name) {
                return Err(fail("a second HELP"));
            }
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| fail("no type"))?;
            if helped.take().as_deref() != Some(name) {
                return Err(fail("HELP must stand right before"));
            }
            if !["counter", "gauge", "histogram"].contains(&kind) {
                return Err(fail("no such type"));
            }
            if (kind == "counter") != name.ends_with("_total") {
                return Err(fail("counters end in _total"));
            }
            let family = Family {
                kind: kind.to_owned(),
                name: name.to_owned(),
                samples: BTreeMap::new(),
            };
            families.insert(name.to_owned(), family);
            current = Some(name.to_owned());
        } else if line.starts_with('#') {
            return Err(fail("a comment"));
        } else {
            let (name, labels, value) = sample(line)?;
            let of = current
                .as_deref()
                .ok_or_else(|| fail("a sample before its type"))?;
            let family = families.get_mut(of).ok_or_else(|| fail("no family"))?;
            let suffix = name
                .strip_prefix(of)
                .ok_or_else(|| fail("a sample outside of its family"))?;
            let fits = match family.kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                _ => suffix.is_empty(),
            };
            if !fits || (suffix == "_bucket") != labels.contains_key("le") {
                return Err(fail("no such part"));
            }
            if family.kind == "counter" && (value < 0.0 || value.is_nan()) {
                return Err(fail("a counter below 0"));
            }
            if family
                .samples
                .insert((name.to_owned(), labels), value)
                .is_some()
            {
                return Err(fail("the same sample twice"));
            }
        }
    }
    for family in families.values().filter(|f| f.kind == "histogram") {
        whole(family)?;
    }
    Ok(families)
}

/// A histogram's buckets grow, end with +Inf, and agree with its count.
fn whole(family: &Family) -> Result<(), String> {
    let name = &family.name;
    let sets: BTreeSet<Set> = family
        .samples
        .keys()
        .map(|(_, labels)| {
            let mut labels = labels.clone();
            labels.remove("le");
            labels
        })
        .collect();
    for set in sets {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for ((part, labels), value) in &family.samples {
            let mut rest = labels.clone();
            if let (Some(le), true) = (rest.remove("le"), part.ends_with("_bucket"))
                && rest == set
            {
                buckets.push((number(&le)?, *value));
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count = family.samples.get(&(format!("{name}_count"), set.clone()));
        let sum = family.samples.get(&(format!("{name}_sum"), set.clone()));
        let grows = buckets.windows(2).all(|two| two[0].1 <= two[1].1);
        let last = buckets.last().copied();
        if !grows
            || sum.is_none()
            || last.is_none_or(|(le, value)| le != f64::INFINITY || Some(&value) != count)
        {
            return Err(format!("{name}{set:?} is no histogram: {buckets:?}"));
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let first = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if first && rest {
        Ok(())
    } else {
        Err(format!("{name:?} is no name"))
    }
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if text
            .chars()
            .all(|c| c.is_ascii_digit() || "+-.e".contains(c)) =>
        {
            text.parse().map_err(|_| format!("{text:?} is no number"))
        }
        _ => Err(format!("{text:?} is no number")),
    }
}

fn unescape(text: &str, quoted: bool) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some('n') => out.push('\n'),
                Some('"') if quoted => out.push('"'),
                other => return Err(format!("\\{other:?} in {text:?}")),
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Name, labels and value of a line.
fn sample(line: &str) -> Result<(&str, Set, f64), String> {
    let fail = |why: &str| format!("{why}: {line:?}");
    let end = line
        .find(['{', ' '])
        .ok_or_else(|| fail("a name and nothing else"))?;
    let name = &line[..end];
    check_name(name)?;
    let mut labels = Set::new();
    let mut rest = &line[end..];
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or_else(|| fail("no label"))?;
            check_name(label)?;
            let mut escaped = false;
            let close = after
                .char_indices()
                .find(|(_, c)| {
                    let closes = *c == '"' && !escaped;
                    escaped = *c == '\\' && !escaped;
                    closes
                })
                .ok_or_else(|| fail("no end of a label"))?
                .0;
            let value = unescape(&after[..close], true)?;
            if labels.insert(label.to_owned(), value).is_some() {
                return Err(fail("a label twice"));
            }
            rest = &after[close + 1..];
            if let Some(more) = rest.strip_prefix(',') {
                rest = more;
            } else {
                rest = rest
                    .strip_prefix('}')
                    .ok_or_else(|| fail("no end of the labels"))?;
                break;
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or_else(|| fail("no value"))?;
    Ok((name, labels, number(value)?))
}
