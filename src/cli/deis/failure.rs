//! How errors are told: what happened, in v1's form, and what to do about it.

use anyhow::Error;
use clap::{
    Command,
    error::{ContextKind, ContextValue},
};
use serde_json::json;

use super::{
    client::Refused,
    ui::{Format, Interrupted, Ui},
};

/// Exit code of whatever failed, as in v1.
pub const FAILED: u8 = 1;

/// Exit code of a command that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

/// Tells of an error, and of where its app came from if that was a guess; the exit code.
pub fn tell(error: &Error, guess: Option<&str>, ui: &mut Ui) -> u8 {
    if error.is::<Interrupted>() {
        return INTERRUPTED;
    }
    let refused = error.downcast_ref::<Refused>();
    let hint = refused.and_then(|refused| match refused.code {
        403 | 404 => guess,
        _ => refused.hint.as_deref(),
    });
    match ui.format() {
        Format::Text => {
            ui.error(&format!("Error: {error:#}"));
            if let Some(hint) = hint {
                ui.error(&format!("Hint: {hint}"));
            }
        }
        Format::Json => {
            let mut object = json!({ "error": format!("{error:#}") });
            if let Some(refused) = refused {
                object["status"] = refused.code.into();
                object["body"] = refused.body.clone();
            }
            if let Some(hint) = hint {
                object["hint"] = hint.into();
            }
            ui.error(&object.to_string());
        }
    }
    FAILED
}

/// Tells of a command line that can't be read; help that was asked for goes to stdout.
pub fn tell_usage(error: &clap::Error, ui: &mut Ui) -> u8 {
    let text = if ui.colour() && ui.format() == Format::Text {
        error.render().ansi().to_string()
    } else {
        error.render().to_string()
    };
    if !error.use_stderr() {
        ui.data(text.as_bytes());
        return 0;
    }
    let text = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(name)) => unknown(name, error),
        _ => text
            .strip_prefix("error: ")
            .unwrap_or(&text)
            .trim_end()
            .to_owned(),
    };
    match ui.format() {
        Format::Text => ui.error(&format!("Error: {text}")),
        Format::Json => ui.error(&json!({ "error": text }).to_string()),
    }
    FAILED
}

/// The same for a name that is only asked about.
pub fn no_command(cli: Command, name: &str) -> String {
    let error = cli.try_get_matches_from(["deis", name]);
    error.map_or_else(|error| unknown(name, &error), |_| String::new())
}

/// A command that there isn't, and what may have been meant.
fn unknown(name: &str, error: &clap::Error) -> String {
    // clap names all that come near, the nearest last.
    let nearest = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(names)) => names.last(),
        Some(ContextValue::String(name)) => Some(name),
        _ => None,
    };
    let guess = nearest.map_or_else(String::new, |name| format!(" Did you mean {name}?"));
    format!("{name} is no command.{guess}\n`deis help` lists what there is.")
}
