//! The contract of API v1.7, as byte fixtures written from deis-v1.md (sections 2.5, 3, 4 and 13)
//! and never from what this server answers. `story` says how to read and write one.

mod coverage;
pub(super) mod holes;
mod play;
pub(super) mod stage;
mod story;

use std::{fs, path::PathBuf};

/// Where the fixtures are.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/controller/tests/fixtures")
}

fn read(file: &str) -> story::Story {
    let text = fs::read_to_string(folder().join(file));
    story::parse(file, &text.unwrap_or_else(|e| panic!("{file}: {e}")))
}

async fn holds(file: &str) {
    let wrong = play::play(file, &read(file)).await;
    assert!(
        wrong.is_empty(),
        "{} differences\n\n{}\n",
        wrong.len(),
        wrong.join("\n\n")
    );
}

/// One test per fixture.
macro_rules! fixtures {
    ($($test:ident: $file:literal,)*) => {
        pub(super) const FIXTURES: &[&str] = &[$($file),*];

        $(
            #[tokio::test]
            async fn $test() {
                super::holds($file).await;
            }
        )*
    };
}

/// What holds.
mod contract {
    fixtures! {
        conventions: "00-conventions.http",
        register: "03-register.http",
        login: "04-login.http",
        cancel: "05-cancel.http",
        cancel_of_the_last_user: "05-cancel-last.http",
        passwd: "06-passwd.http",
        tokens: "07-tokens.http",
        apps: "08-apps.http",
        pages: "08-pages.http",
        transfer: "11-transfer.http",
        config: "14-config.http",
        failures: "14-failures.http",
        builds: "15-builds.http",
        releases: "18-releases.http",
        containers: "21-containers.http",
        default_structures: "21-defaults.http",
        domains: "25-domains.http",
        logs: "28-logs.http",
        run: "29-run.http",
        perms: "30-perms.http",
        ssh_keys: "32-keys.http",
        certs: "34-certs.http",
        administrators: "36-admin.http",
    }
}

/// What doesn't hold yet, because its routes are being built: these tests fail until then. Whoever
/// brings a route moves its line up.
mod pending {
    fixtures! {
        images: "16-images.http",
        hooks: "38-hooks.http",
    }
}

/// No fixture lies about unplayed.
#[test]
fn every_fixture_is_listed() {
    let mut there: Vec<String> = fs::read_dir(folder())
        .expect("folder")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("name")
        })
        .collect();
    let mut listed = [contract::FIXTURES, pending::FIXTURES].concat();
    there.sort_unstable();
    listed.sort_unstable();
    assert_eq!(there, listed);
}
