//! A process's unit files, from its records and the templates of its runtime.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use handlebars::{
    Context, Handlebars, Helper, HelperResult, Output, RenderContext, RenderErrorReason,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use super::names::*;
use super::{
    arguments::{announce_args, command_of, is_commit, is_image, podman_args, shell},
    env::Environment,
    escape,
};
use crate::{
    model::{Build, Config, ConfigName, ProcessName, ProcessType, Release},
    session::Term,
};

/// The podman network of all app and build containers.
pub const NETWORK: &str = "deis";
/// Seconds that a process has between SIGTERM and SIGKILL.
pub const STOP_GRACE_SECS: u32 = 10;
/// Seconds between the end of a process and its restart.
const RESTART_DELAY_SECS: u32 = 3;

/// A unit file, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedUnit {
    /// File name, `blog_v7.web.1.service`.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Why a process's units can't be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A template is broken.
    #[error("template {name} is broken")]
    Template {
        /// Which one.
        name: &'static str,
        /// What handlebars says.
        #[source]
        source: Box<handlebars::TemplateError>,
    },
    /// A template asks for something that there is not.
    #[error("template {name} can't be rendered")]
    Render {
        /// Which one.
        name: &'static str,
        /// What handlebars says.
        #[source]
        source: Box<handlebars::RenderError>,
    },
    /// The build has no command for the process type.
    #[error("the build has no process type {kind}: its Procfile has {known}")]
    NoCommand {
        /// The type.
        kind: ProcessType,
        /// The types that it has.
        known: String,
    },
    /// The command has a NUL byte.
    #[error("the command of {name} contains a NUL byte, which no program argument can hold")]
    Nul {
        /// The process.
        name: ProcessName,
    },
    /// The build's image is not `repository@sha256:digest`.
    #[error("the build's image {image:?} is not of the form repository@sha256:digest")]
    Image {
        /// The text.
        image: String,
    },
}

/// What is the same for all processes of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// The host's address, where ports are published.
    pub address: IpAddr,
    /// Whether podman finds an init (catatonit): then PID 1 reaps zombies and obeys SIGTERM.
    pub init: bool,
}

/// How a one-off process is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// To nobody: its output goes to the app's log.
    Detached,
    /// By pipes.
    Pipes,
    /// By a terminal of this kind.
    Terminal(Term),
}

/// Everything that a process's units are made of.
#[derive(Debug, Clone, Copy)]
pub struct ProcessSpec<'a> {
    /// Its name.
    pub name: &'a ProcessName,
    /// Its assignment's uuid.
    pub uuid: Uuid,
    /// Its release.
    pub release: &'a Release,
    /// The release's build.
    pub build: &'a Build,
    /// The release's config.
    pub config: &'a Config,
    /// The config's values, opened (only HEALTHCHECK_* are looked at).
    pub values: &'a BTreeMap<ConfigName, String>,
    /// How they reach the container.
    pub environment: &'a Environment,
    /// The host's port that leads to it; none for types that are not routable.
    pub port: Option<u16>,
}

/// Texts of the templates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSources {
    /// app.service.hbs
    pub app: String,
    /// announce.service.hbs
    pub announce: String,
    /// log.socket.hbs
    pub log_socket: String,
    /// log.service.hbs
    pub log: String,
    /// run.service.hbs
    pub run: String,
}

impl TemplateSources {
    /// The templates that this program was built with.
    #[must_use]
    pub fn built_in() -> Self {
        Self {
            app: include_str!("../../templates/podman/app.service.hbs").into(),
            announce: include_str!("../../templates/podman/announce.service.hbs").into(),
            log_socket: include_str!("../../templates/podman/log.socket.hbs").into(),
            log: include_str!("../../templates/podman/log.service.hbs").into(),
            run: include_str!("../../templates/podman/run.service.hbs").into(),
        }
    }

    fn each(&self) -> [(&'static str, &str); 5] {
        [
            (APP, &self.app),
            (ANNOUNCE, &self.announce),
            (LOG_SOCKET, &self.log_socket),
            (LOG, &self.log),
            (RUN, &self.run),
        ]
    }
}

const APP: &str = "app.service.hbs";
const ANNOUNCE: &str = "announce.service.hbs";
const LOG_SOCKET: &str = "log.socket.hbs";
const LOG: &str = "log.service.hbs";
const RUN: &str = "run.service.hbs";

/// The templates of a runtime, parsed and tried.
pub struct Templates {
    engine: Handlebars<'static>,
    /// First digits of the SHA-256 of all texts: tells units of an older template.
    digest: String,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Templates({})", self.digest)
    }
}

/// `{{arg value}}`: one quoted argument of a command line.
fn arg_helper(
    helper: &Helper<'_>,
    _: &Handlebars<'_>,
    _: &Context,
    _: &mut RenderContext<'_, '_>,
    out: &mut dyn Output,
) -> HelperResult {
    let value = helper
        .param(0)
        .filter(|p| !p.is_value_missing())
        .and_then(|p| p.value().as_str());
    let Some(value) = value else {
        return Err(RenderErrorReason::ParamNotFoundForIndex("arg", 0).into());
    };
    out.write(&escape::exec_argument(value))?;
    Ok(())
}

/// What templates can name. All of it is there for each template (strict mode: a missing name is an
/// error), so that an operator's changed template fails at the agent's start, not at a deploy.
#[derive(Debug, Serialize)]
struct Values<'a> {
    template: &'a str,
    name: String,
    uuid: String,
    app: &'a str,
    release: String,
    kind: &'a str,
    number: u32,
    incarnation: u32,
    build: String,
    commit: &'a str,
    digest: &'a str,
    image: String,
    user: &'a str,
    port: Option<u16>,
    sidecar: &'a str,
    log_fifo: String,
    environment_files: Vec<String>,
    podman_args: Vec<String>,
    command: Vec<String>,
    announce_args: Vec<String>,
    log_args: Vec<String>,
    restart_delay: u32,
    stop_grace: u32,
    errand: String,
    exit: String,
    detached: bool,
}

impl Templates {
    /// Parses the templates and tries them on a sample.
    ///
    /// # Errors
    /// When one is broken or names something that there is not.
    pub fn new(sources: &TemplateSources) -> Result<Self, RenderError> {
        let mut engine = Handlebars::new();
        engine.set_strict_mode(true);
        engine.register_escape_fn(escape::value);
        engine.register_helper("arg", Box::new(arg_helper));
        let mut hash = Sha256::new();
        for (name, text) in sources.each() {
            hash.update(text);
            engine
                .register_template_string(name, text)
                .map_err(|source| RenderError::Template {
                    name,
                    source: Box::new(source),
                })?;
        }
        let digest = hash
            .finalize()
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let templates = Self { engine, digest };
        let sample = templates.sample();
        for (name, _) in sources.each() {
            templates.text(name, &sample)?;
        }
        Ok(templates)
    }

    /// Identifies the set of templates.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Renders the four units of a process: app, announcer, log socket and log sidecar.
    ///
    /// # Errors
    /// When the build has no command for it, or a record is not what it should be.
    pub fn process(
        &self,
        spec: &ProcessSpec<'_>,
        host: &HostFacts,
    ) -> Result<Vec<RenderedUnit>, RenderError> {
        let (entrypoint, command) = command_of(spec.build, &spec.name.kind)?;
        let memory = spec.config.memory_bytes(&spec.name.kind);
        let mut values = self.values(spec, host, memory, entrypoint, command)?;
        values
            .podman_args
            .splice(0..0, ["--sdnotify=conmon".into()]);
        if let Some(port) = spec.port {
            let published = SocketAddr::new(host.address, port);
            values
                .podman_args
                .push(format!("--publish={published}:{}/tcp", spec.build.port));
        }
        let name = spec.name;
        Ok(vec![
            RenderedUnit {
                name: log_socket(name),
                text: self.text(LOG_SOCKET, &values)?,
            },
            RenderedUnit {
                name: log(name),
                text: self.text(LOG, &values)?,
            },
            RenderedUnit {
                name: announcer(name),
                text: self.text(ANNOUNCE, &values)?,
            },
            RenderedUnit {
                name: service(name),
                text: self.text(APP, &values)?,
            },
        ])
    }

    /// Renders the units of a one-off process: its own and, for a detached one, those that bring its
    /// output to the app's log. Its command line stands in none of them: it may hold secrets, and
    /// everybody on a host may read a unit.
    ///
    /// # Errors
    /// When a record is not what it should be.
    pub fn run(
        &self,
        spec: &ProcessSpec<'_>,
        host: &HostFacts,
        memory_bytes: u64,
        manner: &Manner,
    ) -> Result<Vec<RenderedUnit>, RenderError> {
        // The sidecar adds the command line to these.
        let (entrypoint, mut command) = shell(spec.build.kind, "");
        command.pop();
        let mut values = self.values(spec, host, memory_bytes, entrypoint, command)?;
        values.detached = *manner == Manner::Detached;
        if let Manner::Terminal(term) = manner {
            values
                .podman_args
                .retain(|arg| !arg.starts_with("--log-driver="));
            values.podman_args.extend([
                "--log-driver=none".into(),
                "--interactive".into(),
                "--tty".into(),
                // No key of the user's is podman's.
                "--detach-keys=".into(),
                format!("--env=TERM={term}"),
            ]);
        }
        let name = spec.name;
        let mut units = Vec::new();
        if values.detached {
            for (name, template) in [(log_socket(name), LOG_SOCKET), (log(name), LOG)] {
                let text = self.text(template, &values)?;
                units.push(RenderedUnit { name, text });
            }
        }
        units.push(RenderedUnit {
            name: service(name),
            text: self.text(RUN, &values)?,
        });
        Ok(units)
    }

    fn text(&self, template: &'static str, values: &Values<'_>) -> Result<String, RenderError> {
        self.engine
            .render(template, values)
            .map_err(|source| RenderError::Render {
                name: template,
                source: Box::new(source),
            })
    }

    fn values<'a>(
        &'a self,
        spec: &ProcessSpec<'a>,
        host: &HostFacts,
        memory_bytes: u64,
        entrypoint: Option<&str>,
        command: Vec<String>,
    ) -> Result<Values<'a>, RenderError> {
        let name = spec.name;
        if command.iter().any(|word| word.contains('\0')) {
            return Err(RenderError::Nul { name: name.clone() });
        }
        if !is_image(&spec.build.image) {
            return Err(RenderError::Image {
                image: spec.build.image.clone(),
            });
        }
        let files = RunFiles::of(name);
        Ok(Values {
            template: &self.digest,
            name: name.to_string(),
            uuid: spec.uuid.to_string(),
            app: name.app.as_str(),
            release: name.release.to_string(),
            kind: name.kind.as_str(),
            number: name.number,
            incarnation: name.incarnation.get(),
            build: spec.build.uuid.to_string(),
            commit: if is_commit(&spec.build.sha) {
                &spec.build.sha
            } else {
                "none"
            },
            digest: &spec.build.image,
            image: local_image(&spec.build.image),
            user: spec.release.owner.as_str(),
            port: spec.port,
            sidecar: SIDECAR,
            log_fifo: format!("{LOG_DIR}/{name}"),
            environment_files: (!spec.environment.quoted_names.is_empty())
                .then(|| env_file(name))
                .into_iter()
                .collect(),
            podman_args: podman_args(spec, host, memory_bytes, entrypoint),
            command,
            announce_args: announce_args(spec, host),
            log_args: [
                "--unit",
                &name.to_string(),
                "--uuid",
                &spec.uuid.to_string(),
            ]
            .into_iter()
            .chain(["--app", name.app.as_str(), "--tag", &name.log_tag()])
            .map(str::to_owned)
            .collect(),
            restart_delay: RESTART_DELAY_SECS,
            stop_grace: STOP_GRACE_SECS,
            errand: files.errand,
            exit: files.exit,
            detached: false,
        })
    }

    /// Values to try templates on.
    fn sample(&self) -> Values<'_> {
        let word = || vec!["x".to_owned()];
        Values {
            template: &self.digest,
            name: "x_v1.web.1".into(),
            uuid: Uuid::nil().to_string(),
            app: "x",
            release: "v1".into(),
            kind: "web",
            number: 1,
            incarnation: 1,
            build: Uuid::nil().to_string(),
            commit: "none",
            digest: "x",
            image: "x".into(),
            user: "x",
            port: Some(1),
            sidecar: SIDECAR,
            log_fifo: "/x".into(),
            environment_files: word(),
            podman_args: word(),
            command: word(),
            announce_args: word(),
            log_args: word(),
            restart_delay: 1,
            stop_grace: 1,
            errand: "/x".into(),
            exit: "/x".into(),
            detached: true,
        }
    }
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
