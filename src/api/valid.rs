//! What requests say, parsed: JSON fields in, parsed names out, refusals in v1's own words.

mod account;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub use self::account::*;
use crate::{
    model::{
        AppName, ConfigName, DomainName, PolicyChange, ProcessType, ReleaseNumber, Username,
        WHITELIST_VARIABLE, Whitelist,
    },
    render,
};

/// The fields of a request.
pub type Fields = Map<String, Value>;

/// Most processes of one type that may be asked for at once.
pub const MAX_PROCESSES: u32 = 1000;

/// Longest text accepted in a field of a user (name, mail address, password), in bytes.
const MAX_TEXT: usize = 254;

/// Longest command of `run`, in bytes.
const MAX_COMMAND: usize = 32 << 10;

/// What v1 says when there is no release to go back to.
pub const BELOW_FIRST_RELEASE: &str = "version cannot be below 0";

/// Longest chain of certificates, in bytes.
const MAX_CHAIN: usize = 64 << 10;

/// Longest private key, in bytes.
const MAX_KEY: usize = 16 << 10;

/// What is wrong with a request: `{"<field>": ["why", ...]}`, or `{"detail": "why"}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One field is wrong.
    #[error("{field}: {why}")]
    Field {
        /// Its name.
        field: String,
        /// Why.
        why: String,
    },
    /// The request as a whole is.
    #[error("{0}")]
    Detail(String),
}

impl Refusal {
    /// A field is wrong.
    #[must_use]
    pub fn field(field: &str, why: impl Into<String>) -> Self {
        Self::Field {
            field: field.to_owned(),
            why: why.into(),
        }
    }

    /// A value that somebody else has already.
    #[must_use]
    pub fn not_unique(field: &str) -> Self {
        Self::field(field, "This field must be unique.")
    }

    /// The response's body.
    #[must_use]
    pub fn body(&self) -> Value {
        match self {
            Self::Field { field, why } => serde_json::json!({ field: [why] }),
            Self::Detail(why) => serde_json::json!({ "detail": why }),
        }
    }
}

/// A text that may be absent.
fn optional<'f>(fields: &'f Fields, name: &str) -> Result<Option<&'f str>, Refusal> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::field(name, "Not a valid string.")),
    }
}

/// A text that must be there.
fn required<'f>(fields: &'f Fields, name: &str) -> Result<&'f str, Refusal> {
    match optional(fields, name)? {
        None => Err(Refusal::field(name, "This field is required.")),
        Some("") => Err(Refusal::field(name, "This field may not be blank.")),
        Some(text) => Ok(text),
    }
}

fn at_most<'t>(name: &str, text: &'t str, limit: usize) -> Result<&'t str, Refusal> {
    if text.len() > limit {
        let why = format!("Ensure this field has no more than {limit} characters.");
        return Err(Refusal::field(name, why));
    }
    Ok(text)
}

/// An object, which v1's clients may also have sent as a text that holds JSON.
fn object(fields: &Fields, name: &str) -> Result<Fields, Refusal> {
    let wrong = || Refusal::field(name, "Expected a JSON object.");
    match fields.get(name) {
        None | Some(Value::Null) => Ok(Fields::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(Value::String(text)) if text.is_empty() => Ok(Fields::new()),
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|_| wrong()),
        Some(_) => Err(wrong()),
    }
}

/// A scalar as Python's `str()` wrote it; none for null.
fn scalar(field: &str, value: &Value) -> Result<Option<String>, Refusal> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(true) => Ok(Some("True".to_owned())),
        Value::Bool(false) => Ok(Some("False".to_owned())),
        Value::Array(_) | Value::Object(_) => Err(Refusal::field(
            field,
            "Values must be texts, numbers or null.",
        )),
    }
}

/// Reads a user's name in a field.
fn username_in(fields: &Fields, field: &str) -> Result<Username, Refusal> {
    let text = required(fields, field)?;
    if text.len() > 30 {
        return Err(Refusal::field(
            field,
            "Ensure this field has no more than 30 characters.",
        ));
    }
    text.parse().map_err(|_| {
        Refusal::field(
            field,
            "Enter a valid username. This value may contain only letters, numbers and \
             @/./+/-/_ characters.",
        )
    })
}

/// `POST apps/<app>/`: the new owner, if the request has one.
///
/// # Errors
/// When the name is none.
pub fn new_owner(fields: &Fields) -> Result<Option<Username>, Refusal> {
    match optional(fields, "owner")? {
        None => Ok(None),
        Some(_) => username_in(fields, "owner").map(Some),
    }
}

/// `POST apps/`: the name that was asked for, if any.
///
/// # Errors
/// When it is no app's name.
pub fn app_id(fields: &Fields) -> Result<Option<AppName>, Refusal> {
    let Some(text) = optional(fields, "id")?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if text == "deis" {
        return Err(Refusal::field("id", "deis is a reserved name."));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !text.chars().all(allowed) {
        return Err(Refusal::field("id", "App IDs can only contain [a-z0-9-]."));
    }
    at_most("id", text, 63)?;
    text.parse().map(Some).map_err(|_| {
        Refusal::field(
            "id",
            "App IDs can't begin or end with a dash: they become part of a host name.",
        )
    })
}

/// What `POST config` changes; none as a value removes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigRequest {
    /// Variables.
    pub values: BTreeMap<ConfigName, Option<String>>,
    /// Memory limit per process type.
    pub memory: BTreeMap<ProcessType, Option<String>>,
    /// CPU shares per process type.
    pub cpu: BTreeMap<ProcessType, Option<u32>>,
    /// Placement tags.
    pub tags: BTreeMap<String, Option<String>>,
}

/// `POST apps/<app>/config/`
///
/// # Errors
/// When a name, value, limit or tag is not allowed.
pub fn config(fields: &Fields) -> Result<ConfigRequest, Refusal> {
    let mut request = ConfigRequest::default();
    for (name, value) in object(fields, "values")? {
        let name: ConfigName = name.parse().map_err(|_| {
            Refusal::field(
                "values",
                "Config keys must start with a letter or underscore and only contain [A-z0-9_]",
            )
        })?;
        let value = scalar("values", &value)?;
        if let Some(text) = &value {
            render::env::check_value(&name, text)
                .map_err(|e| Refusal::field("values", e.to_string()))?;
            if name.as_str() == WHITELIST_VARIABLE {
                text.parse::<Whitelist>()
                    .map_err(|e| Refusal::field("values", e.to_string()))?;
            }
        }
        request.values.insert(name, value);
    }
    for (kind, value) in object(fields, "memory")? {
        let kind = process_type("memory", &kind)?;
        let value = scalar("memory", &value)?;
        if value
            .as_deref()
            .is_some_and(|text| crate::model::parse_memory(text).is_none())
        {
            return Err(Refusal::field(
                "memory",
                "Limit format: <number><unit>, where unit = B, K, M or G",
            ));
        }
        request.memory.insert(kind, value);
    }
    for (kind, value) in object(fields, "cpu")? {
        let kind = process_type("cpu", &kind)?;
        let value = scalar("cpu", &value)?
            .map(|text| text.parse::<u32>().ok().filter(|n| *n <= 1024).ok_or(()))
            .transpose()
            .map_err(|()| Refusal::field("cpu", "CPU shares must be between 0 and 1024"))?;
        request.cpu.insert(kind, value);
    }
    for (key, value) in object(fields, "tags")? {
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphabetic()) {
            return Err(Refusal::field("tags", "Tag keys can only contain [a-z]"));
        }
        let value = scalar("tags", &value)?;
        let word = |text: &String| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        if value.as_ref().is_some_and(|text| !word(text)) {
            return Err(Refusal::field("tags", "Invalid tag value"));
        }
        request.tags.insert(key, value);
    }
    Ok(request)
}

fn process_type(field: &str, text: &str) -> Result<ProcessType, Refusal> {
    text.parse()
        .map_err(|_| Refusal::field(field, "Process types can only contain [a-z]"))
}

/// `POST apps/<app>/scale/`
///
/// # Errors
/// When a count is no number from 0 to `MAX_PROCESSES`, or a type is none.
pub fn scale(fields: &Fields) -> Result<BTreeMap<ProcessType, u32>, Refusal> {
    let mut wanted = BTreeMap::new();
    for (kind, value) in fields {
        let count: i64 = scalar("scale", value)
            .ok()
            .flatten()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Refusal::Detail(format!("Invalid scaling format: {kind}={value}")))?;
        if count < 0 {
            return Err(Refusal::Detail(
                "Invalid scaling format: Must be greater than or equal to zero".to_owned(),
            ));
        }
        let count = u32::try_from(count)
            .ok()
            .filter(|count| *count <= MAX_PROCESSES)
            .ok_or_else(|| {
                Refusal::Detail(format!(
                    "Invalid scaling format: at most {MAX_PROCESSES} processes of a type"
                ))
            })?;
        let kind: ProcessType = kind.parse().map_err(|_| {
            Refusal::Detail(format!(
                "Container type {kind} does not exist in application"
            ))
        })?;
        wanted.insert(kind, count);
    }
    if wanted.is_empty() {
        return Err(Refusal::Detail(
            "Invalid scaling format: say which type and how many, for example web=2".to_owned(),
        ));
    }
    Ok(wanted)
}

/// `POST apps/<app>/single/`.
///
/// # Errors
/// When a mark is neither true nor false, or a type is none.
pub fn single(fields: &Fields) -> Result<BTreeMap<ProcessType, bool>, Refusal> {
    let mut marks = BTreeMap::new();
    for (kind, value) in fields {
        let single = value.as_bool().ok_or_else(|| {
            Refusal::Detail(format!(
                "{kind} is single or not: true or false, not {value}"
            ))
        })?;
        let kind: ProcessType = kind.parse().map_err(|_| {
            Refusal::Detail(format!(
                "Container type {kind} does not exist in application"
            ))
        })?;
        marks.insert(kind, single);
    }
    if marks.is_empty() {
        return Err(Refusal::Detail(
            "say which type is single, for example {\"web\": true}".to_owned(),
        ));
    }
    Ok(marks)
}

/// `POST apps/<app>/maintenance/`: whether it is on, and the page.
///
/// # Errors
/// When it says neither true nor false, or the page is no text.
pub fn maintenance(fields: &Fields) -> Result<(bool, Option<String>), Refusal> {
    let on = fields.get("on").and_then(Value::as_bool);
    let on = on.ok_or_else(|| Refusal::field("on", "say true or false"))?;
    let page = match fields.get("page") {
        None | Some(Value::Null) => None,
        Some(Value::String(page)) => Some(page.clone()),
        Some(_) => return Err(Refusal::field("page", "it has to be a text")),
    };
    Ok((on, page))
}

/// `POST apps/<app>/rollout/`: what is changed; none: there is to be no policy.
///
/// # Errors
/// When something is no number.
pub fn policy(fields: &Fields) -> Result<Option<PolicyChange>, Refusal> {
    match fields.get("on") {
        None | Some(Value::Null | Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Ok(None),
        Some(_) => return Err(Refusal::field("on", "say true or false")),
    }
    let number = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            let refuse = || Refusal::field(name, "it has to be a whole number");
            number.ok_or_else(refuse).map(Some)
        }
    };
    Ok(Some(PolicyChange {
        share: number("share")?,
        watch: number("watch")?,
        errors: number("errors")?,
        failed: number("failed")?,
    }))
}

/// `POST apps/<app>/releases/rollback/`: the release to go back to, if the request names one.
///
/// # Errors
/// When it names none that can exist.
pub fn rollback(fields: &Fields) -> Result<Option<ReleaseNumber>, Refusal> {
    let Some(text) = fields
        .get("version")
        .map(|value| scalar("version", value))
        .transpose()?
        .flatten()
    else {
        return Ok(None);
    };
    let number: i64 = text
        .strip_prefix('v')
        .unwrap_or(&text)
        .parse()
        .map_err(|_| Refusal::field("version", "A valid integer is required."))?;
    match u32::try_from(number) {
        Ok(number) if number > 0 => Ok(Some(ReleaseNumber(number))),
        _ => Err(Refusal::Detail(BELOW_FIRST_RELEASE.to_owned())),
    }
}

/// What `POST apps/<app>/builds/` wants to be deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    /// The image, as given.
    pub image: String,
    /// Git commit, when the image is one that the original builder pushed.
    pub sha: String,
    /// Command per process type, not looked at yet.
    pub procfile: Fields,
    /// Whether it was built from a Dockerfile.
    pub dockerfile: bool,
}

/// `POST apps/<app>/builds/`
///
/// # Errors
/// When there is no image, or a field is not of its type.
pub fn build(fields: &Fields) -> Result<BuildRequest, Refusal> {
    let sha = optional(fields, "sha")?.unwrap_or_default();
    if !sha.is_empty() && !(7..=40).contains(&sha.len()) || !sha.bytes().all(is_lower_hex) {
        let why = "A commit is 7 to 40 digits of 0-9 and a-f.";
        return Err(Refusal::field("sha", why));
    }
    Ok(BuildRequest {
        image: required(fields, "image")?.to_owned(),
        sha: sha.to_owned(),
        procfile: object(fields, "procfile")?,
        dockerfile: optional(fields, "dockerfile")?.is_some_and(|text| !text.is_empty()),
    })
}

const fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Whom and which repository a hook of the builder is about, as text: what is no name is not there.
///
/// # Errors
/// When a field is missing.
pub fn hook(fields: &Fields) -> Result<(&str, &str), Refusal> {
    let user = required(fields, "receive_user")?;
    Ok((user, required(fields, "receive_repo")?))
}

/// A text of `hooks/push/` that is only kept.
///
/// # Errors
/// When it is missing or too long to be kept.
pub fn hook_text(fields: &Fields, name: &str, limit: usize) -> Result<String, Refusal> {
    at_most(name, required(fields, name)?, limit).map(str::to_owned)
}

/// `POST apps/<app>/run`: the command line.
///
/// # Errors
/// When there is none, or it can't be one.
pub fn command(fields: &Fields) -> Result<String, Refusal> {
    let command = required(fields, "command")?;
    command_line(command)?;
    Ok(command.to_owned())
}

/// A command line, however it came.
///
/// # Errors
/// When it can't be one.
pub fn command_line(command: &str) -> Result<(), Refusal> {
    let command = at_most("command", command, MAX_COMMAND)?;
    if command.contains('\0') {
        return Err(Refusal::field(
            "command",
            "A command can't contain a NUL character.",
        ));
    }
    Ok(())
}

/// Whether a command is run without anybody waiting for it.
///
/// # Errors
/// When it is neither true nor false.
pub fn detach(fields: &Fields) -> Result<bool, Refusal> {
    match fields.get("detach") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(detach)) => Ok(*detach),
        Some(_) => Err(Refusal::field("detach", "Must be a valid boolean.")),
    }
}

/// `POST apps/<app>/domains/`. Unlike v1, wildcards are taken: `*.` before at least two labels.
///
/// # Errors
/// When it is no domain that can lead to an app.
pub fn domain(fields: &Fields) -> Result<DomainName, Refusal> {
    let text = required(fields, "domain")?.to_ascii_lowercase();
    if text.len() > 255 {
        let why = "Hostname must be 255 characters or less.";
        return Err(Refusal::field("domain", why));
    }
    let text = text.strip_suffix('.').unwrap_or(&text);
    let wrong = || Refusal::field("domain", "Hostname does not look valid.");
    let (is_wildcard, rest) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let labels: Vec<&str> = rest.split('.').collect();
    let digit = |c: char| c.is_ascii_digit();
    let odd = |label: &&str| {
        // A label of nothing but digits makes it look like an address.
        label.chars().all(digit) || (label.contains("--") && !label.starts_with("xn--"))
    };
    // Names of xip.io are addresses, and meant to be.
    let is_odd = labels.iter().any(odd) && !text.contains("xip.io");
    let is_short = labels.len() == 1 && (is_wildcard || text.contains(digit));
    if is_odd || is_short {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

/// Whether a name is the platform's own: its domain, those right below it (the apps' and the
/// controller's), and wildcards over either.
#[must_use]
pub fn is_platforms(name: &DomainName, platform: &str) -> bool {
    let name = name.as_str();
    let below = name
        .strip_suffix(platform)
        .and_then(|n| n.strip_suffix('.'));
    let above = name.strip_prefix("*.").zip(platform.split_once('.'));
    name == platform
        || below.is_some_and(|label| !label.contains('.'))
        || above.is_some_and(|(parent, (_, platforms))| parent == platforms)
}

/// What `POST certs/` brings.
pub struct CertRequest<'f> {
    /// The chain, as PEM.
    pub certificate: &'f str,
    /// The private key, as PEM.
    pub key: &'f str,
    /// The name to serve it for, instead of all that it has.
    pub common_name: Option<DomainName>,
}

/// `POST certs/`
///
/// # Errors
/// When a part is missing or too long, or the name is none.
pub fn cert(fields: &Fields) -> Result<CertRequest<'_>, Refusal> {
    let text = |name, limit| at_most(name, required(fields, name)?, limit);
    let asked = optional(fields, "common_name")?.filter(|name| !name.is_empty());
    let common_name = asked
        .map(|name| {
            let name = name.strip_suffix('.').unwrap_or(name);
            name.to_ascii_lowercase().parse()
        })
        .transpose()
        .map_err(|_| Refusal::field("common_name", "Hostname does not look valid."))?;
    Ok(CertRequest {
        certificate: text("certificate", MAX_CHAIN)?,
        key: text("key", MAX_KEY)?,
        common_name,
    })
}
