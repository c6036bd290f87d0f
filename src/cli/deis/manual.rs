//! `deis man`: manual pages from the same words as the help.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, Command};
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::{Shell, examples::EXAMPLES, help};

/// `deis man`
#[derive(Debug, Args)]
pub struct Man {
    /// The folder, for example /usr/local/share/man/man1
    #[arg(long, value_name = "FOLDER")]
    pub dir: PathBuf,
}

/// `man`
pub fn write(shell: &mut Shell<'_>, args: Man) -> anyhow::Result<()> {
    let folder = shell.env.cwd.join(args.dir);
    fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
    let pages = pages().context("can't write the manual")?;
    for (name, text) in &pages {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))?;
    }
    shell
        .ui
        .line(&format!("{} pages in {}", pages.len(), folder.display()));
    Ok(())
}

/// Every page: the name of its file, and its text.
fn pages() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut cli = help::command();
    cli.build();
    let mut pages = vec![("deis.1".to_owned(), main_page(&cli)?)];
    for command in cli.get_subcommands().filter(|c| !c.is_hide_set()) {
        let file = format!("{}.1", page_name(command));
        pages.push((file, page(command)?));
    }
    Ok(pages)
}

/// A colon separates section and page for some readers of manuals; a dash is safe.
fn page_name(command: &Command) -> String {
    format!("deis-{}", command.get_name().replace(':', "-"))
}

fn man(command: Command, title: &str) -> clap_mangen::Man {
    clap_mangen::Man::new(command)
        .title(title)
        .source(format!("Deis {}", crate::api::PLATFORM_VERSION))
        .manual("Deis")
}

fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let name = page_name(command);
    // As a program of its own, for the synopsis names that.
    let as_program = command
        .clone()
        .display_name(name.clone())
        .bin_name(format!("deis {}", command.get_name()));
    let man = man(as_program, &name);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    let mut roff = Roff::default();
    let aliases: Vec<_> = command.get_visible_aliases().collect();
    if !aliases.is_empty() {
        roff.control("SH", ["SHORTCUTS"]);
        roff.text([roman(format!("deis {}", aliases.join(", deis ")))]);
    }
    if let Some((_, examples)) = EXAMPLES
        .iter()
        .find(|(name, _)| *name == command.get_name())
    {
        roff.control("SH", ["EXAMPLES"]);
        for (line, what) in *examples {
            roff.control("TP", []);
            roff.text([bold(*line)]);
            roff.text([roman(*what)]);
        }
    }
    see_also(&mut roff, [bold("deis"), roman("(1)")]);
    roff.to_writer(&mut text)?;
    Ok(text)
}

fn main_page(cli: &Command) -> std::io::Result<Vec<u8>> {
    let man = man(cli.clone(), "deis");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    let mut roff = Roff::default();
    roff.control("SH", ["COMMANDS"]);
    for command in cli.get_subcommands().filter(|c| !c.is_hide_set()) {
        roff.control("TP", []);
        roff.text([
            bold(command.get_name()),
            roman(", see "),
            bold(page_name(command)),
            roman("(1)"),
        ]);
        roff.text([roman(
            command
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default(),
        )]);
    }
    for (title, rows) in [
        ("ENVIRONMENT", ENVIRONMENT),
        ("FILES", FILES),
        ("EXIT STATUS", EXIT_STATUS),
    ] {
        roff.control("SH", [title]);
        for (name, what) in rows {
            roff.control("TP", []);
            roff.text([bold(*name)]);
            roff.text([roman(*what)]);
        }
    }
    see_also(&mut roff, [bold("git-push"), roman("(1)")]);
    roff.to_writer(&mut text)?;
    Ok(text)
}

fn see_also(roff: &mut Roff, page: [Inline; 2]) {
    roff.control("SH", ["SEE ALSO"]);
    roff.text(page);
}

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "DEIS_PROFILE",
        "Name of the login to use, so that one can have several; client if not set.",
    ),
    (
        "DEIS_DRINK_OF_CHOICE",
        "What to have while processes are scaled; coffee if not set.",
    ),
    (
        "NO_COLOR, CLICOLOR=0",
        "No colours. CLICOLOR_FORCE=1 writes them into pipes, too.",
    ),
    ("BROWSER", "What apps:open starts."),
];

const FILES: &[(&str, &str)] = &[
    (
        "~/.deis/client.json",
        "The login: controller, user and token. Keep it to yourself.",
    ),
    (
        "deis-NAME on the PATH",
        "A plugin: what deis NAME and deis NAME:COMMAND run if there is no such command.",
    ),
];

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "It is done."),
    ("1", "It is not; stderr says why."),
    ("130", "Interrupted from the keyboard."),
    ("others", "Of the command, after apps:run."),
];
