//! Tests of [`super`], apart because they are long.

use proptest::prelude::*;

use super::*;
use crate::{
    model::{AppName, ImageKind, ReleaseNumber, SCHEMA},
    render::escape::lexer,
};

const DIGEST: &str = "blog@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Sample {
    name: ProcessName,
    release: Release,
    build: Build,
    config: Config,
    values: BTreeMap<ConfigName, String>,
    environment: Environment,
}

fn sample(
    name: &str,
    kind: ImageKind,
    procfile: &[(&str, &str)],
    values: &[(&str, &str)],
) -> Sample {
    let app: AppName = "blog".parse().expect("app");
    let created = "2026-01-02T03:04:05Z".parse().expect("time");
    let owner = "ada".parse().expect("user");
    let values: BTreeMap<ConfigName, String> = values
        .iter()
        .map(|(k, v)| (k.parse().expect("name"), (*v).to_owned()))
        .collect();
    let (build, config) = (Uuid::from_u128(0xb), Uuid::from_u128(0xc));
    Sample {
        name: name.parse().expect("process"),
        environment: Environment::new(&values).expect("allowed"),
        values,
        release: Release {
            schema: SCHEMA,
            uuid: Uuid::from_u128(0xa),
            app: app.clone(),
            owner,
            version: ReleaseNumber(7),
            summary: String::new(),
            config,
            build: Some(build),
            created,
        },
        build: Build {
            source: None,
            schema: SCHEMA,
            uuid: build,
            app: app.clone(),
            owner: "ada".parse().expect("user"),
            image: DIGEST.into(),
            kind,
            port: 5000,
            sha: "0123456789abcdef0123456789abcdef01234567".into(),
            procfile: procfile
                .iter()
                .map(|(k, v)| (k.parse().expect("type"), (*v).to_owned()))
                .collect(),
            dockerfile: false,
            created,
        },
        config: Config {
            schema: SCHEMA,
            uuid: config,
            app,
            owner: "ada".parse().expect("user"),
            values: BTreeMap::new(),
            memory: BTreeMap::new(),
            cpu: BTreeMap::new(),
            tags: BTreeMap::new(),
            whitelist: Default::default(),
            created,
        },
    }
}

impl Sample {
    fn spec(&self, port: Option<u16>) -> ProcessSpec<'_> {
        ProcessSpec {
            name: &self.name,
            uuid: Uuid::from_u128(0xd),
            release: &self.release,
            build: &self.build,
            config: &self.config,
            values: &self.values,
            environment: &self.environment,
            port,
        }
    }
}

fn host() -> HostFacts {
    HostFacts {
        address: "10.21.8.101".parse().expect("address"),
        init: false,
    }
}

fn templates() -> Templates {
    Templates::new(&TemplateSources::built_in()).expect("the built-in templates are good")
}

/// Unit texts without the digest of the templates, which any edit changes.
fn stable(units: &[RenderedUnit]) -> String {
    units
        .iter()
        .flat_map(|unit| {
            std::iter::once(format!("=== {}", unit.name)).chain(
                unit.text
                    .lines()
                    .filter(|l| !l.starts_with("X-Deis-Template="))
                    .map(str::to_owned),
            )
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Arguments of the one ExecStart= in the unit of the process itself.
fn command_line(units: &[RenderedUnit]) -> Vec<String> {
    let text = &units.last().expect("units").text;
    let lines: Vec<_> = lexer::settings(text)
        .into_iter()
        .filter(|(_, name, _)| name == "ExecStart")
        .collect();
    assert_eq!(lines.len(), 1, "{text}");
    lexer::arguments(&lines[0].2)
}

#[test]
fn a_web_process() {
    let sample = sample(
        "blog_v7.web.1",
        ImageKind::Slug,
        &[("web", "gunicorn -b 0.0.0.0:$PORT app:\"main\" --fmt '%n'")],
        &[
            ("SECRET", "s3cret"),
            ("CERT", "two\nlines"),
            ("HEALTHCHECK_URL", "/health"),
        ],
    );
    let units = templates()
        .process(&sample.spec(Some(20001)), &host())
        .expect("rendered");
    assert!(
        !units.iter().any(|u| u.text.contains("s3cret")),
        "a value stands in a unit"
    );
    insta::assert_snapshot!(stable(&units));
}

#[test]
fn a_worker_of_an_image() {
    let mut sample = sample(
        "blog_v7.worker.2.3",
        ImageKind::Image,
        &[("worker", "celery worker")],
        &[],
    );
    let worker: ProcessType = "worker".parse().expect("type");
    sample.config.memory.insert(worker.clone(), "64M".into());
    sample.config.cpu.insert(worker, 512);
    let units = templates()
        .process(&sample.spec(None), &host())
        .expect("rendered");
    insta::assert_snapshot!(stable(&units));
}

#[test]
fn a_run() {
    let sample = sample("blog_v7.run.4", ImageKind::Slug, &[], &[("A", "b")]);
    let run = |manner| {
        templates()
            .run(&sample.spec(None), &host(), 64 << 20, &manner)
            .expect("rendered")
    };
    insta::assert_snapshot!(stable(&run(Manner::Pipes)));
    let text = |manner| run(manner).pop().expect("a unit").text;
    let terminal = text(Manner::Terminal(Term::default()));
    for arg in [
        "--tty",
        "--interactive",
        "--env=TERM=xterm",
        "--log-driver=none",
    ] {
        assert!(
            terminal.contains(&format!("\"{arg}\"")),
            "{arg}: {terminal}"
        );
    }
    assert!(!terminal.contains("passthrough"), "{terminal}");
    let detached = run(Manner::Detached);
    let names: Vec<_> = detached.iter().map(|unit| unit.name.as_str()).collect();
    let want = ["-log.socket", "-log.service", ".service"].map(|end| format!("blog_v7.run.4{end}"));
    assert_eq!(names, want);
    assert!(
        detached[2]
            .text
            .contains("StandardOutput=file:/run/deis/log/")
    );
}

#[test]
fn commands() {
    /// Image, Procfile, process, and the entry point and arguments to expect.
    type Case<'c> = (
        ImageKind,
        &'c [(&'c str, &'c str)],
        &'c str,
        Option<(Option<&'c str>, &'c [&'c str])>,
    );
    let cases: &[Case<'_>] = &[
        (
            ImageKind::Slug,
            &[("web", "run it")],
            "blog_v7.web.1",
            Some((None, &["deis-init", "run it"])),
        ),
        (
            ImageKind::Image,
            &[("web", "run it")],
            "blog_v7.web.1",
            Some((Some("--entrypoint=bash"), &["-c", "run it"])),
        ),
        (ImageKind::Image, &[], "blog_v7.cmd.1", Some((None, &[]))),
        (ImageKind::Slug, &[], "blog_v7.cmd.1", None),
        (ImageKind::Image, &[], "blog_v7.web.1", None),
    ];
    for (kind, procfile, name, want) in cases {
        let sample = sample(name, *kind, procfile, &[]);
        let made = templates().process(&sample.spec(Some(20000)), &host());
        let Some((entrypoint, command)) = want else {
            assert!(
                matches!(made, Err(RenderError::NoCommand { .. })),
                "{kind:?} {name}"
            );
            continue;
        };
        let words = command_line(&made.expect("rendered"));
        let image = words
            .iter()
            .position(|w| w.starts_with("deis.local/"))
            .expect("an image");
        assert_eq!(&words[image + 1..], *command, "{kind:?} {name}");
        assert_eq!(
            words
                .iter()
                .find(|w| w.starts_with("--entrypoint"))
                .map(String::as_str),
            *entrypoint
        );
    }
}

#[test]
fn hostile_records_are_refused() {
    let cases = [
        "blog",
        "blog@sha256:00",
        "--privileged@sha256:0123",
        &format!("{DIGEST}\nX=1"),
        &format!("a b{DIGEST}"),
    ];
    for image in cases {
        let mut sample = sample("blog_v7.web.1", ImageKind::Slug, &[("web", "x")], &[]);
        sample.build.image = image.to_owned();
        let made = templates().process(&sample.spec(Some(20000)), &host());
        assert!(matches!(made, Err(RenderError::Image { .. })), "{image:?}");
    }
    let mut hostile = sample("blog_v7.web.1", ImageKind::Slug, &[("web", "x")], &[]);
    hostile.build.sha = "abc\n[Service]\nExecStart=/bin/sh".into();
    let units = templates()
        .process(&hostile.spec(Some(20000)), &host())
        .expect("rendered");
    assert!(units[3].text.contains("X-Deis-Commit=none"));
}

#[test]
fn a_broken_template_is_told_at_once() {
    let mut sources = TemplateSources::built_in();
    sources.app.push_str("{{nothing}}");
    assert!(matches!(
        Templates::new(&sources),
        Err(RenderError::Render {
            name: "app.service.hbs",
            ..
        })
    ));
    sources.app = "{{#if".into();
    assert!(matches!(
        Templates::new(&sources),
        Err(RenderError::Template {
            name: "app.service.hbs",
            ..
        })
    ));
}

proptest! {
    #[test]
    fn no_command_or_health_url_breaks_out(
        command in "[^\0]{1,60}|[%$\\\\\"';`\n\r\t #{}\\[\\]=]{1,30}",
        url in "[^\0]{1,40}|[%$\\\\\"'\n ]{1,10}",
    ) {
        let sample = sample("blog_v7.web.1", ImageKind::Slug, &[("web", &command)], &[("HEALTHCHECK_URL", &url)]);
        let units = templates().process(&sample.spec(Some(20000)), &host()).expect("rendered");
        let words = command_line(&units);
        prop_assert_eq!(words.last(), Some(&command));
        let plain = self::sample("blog_v7.web.1", ImageKind::Slug, &[("web", "x")], &[("HEALTHCHECK_URL", "/")]);
        let plain = templates().process(&plain.spec(Some(20000)), &host()).expect("rendered");
        for (unit, plain) in units.iter().zip(&plain) {
            let names = |text: &str| {
                // A health check URL with a line break takes the other way into the container.
                let settings = lexer::settings(text).into_iter().filter(|(_, n, _)| n != "EnvironmentFile");
                settings.map(|(s, n, _)| (s, n)).collect::<Vec<_>>()
            };
            prop_assert_eq!(names(&unit.text), names(&plain.text), "other settings in {}", &unit.name);
        }
        let announce = lexer::settings(&units[2].text).into_iter().find(|(_, n, _)| n == "ExecStart").expect("ExecStart");
        prop_assert!(lexer::arguments(&announce.2).contains(&url));
    }
}
