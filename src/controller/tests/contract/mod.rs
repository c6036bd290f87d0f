//! The contract of API v1.7, as byte fixtures written from deis-v1.md (sections 2.5, 3, 4 and 13)
//! and never from what this server answers. `story` says how to read and write one.

mod holes;
mod play;
mod stage;
mod story;

/// One test per fixture.
macro_rules! fixtures {
    ($($test:ident: $file:literal,)*) => {
        /// The fixtures of this list, as text.
        #[allow(dead_code, reason = "an empty list is fine")]
        pub(super) const FIXTURES: &[(&str, &str)] =
            &[$(($file, include_str!(concat!("../fixtures/", $file)))),*];

        $(
            #[tokio::test]
            async fn $test() {
                let story = super::story::parse(include_str!(concat!("../fixtures/", $file)));
                let wrong = super::play::play($file, &story).await;
                assert!(wrong.is_empty(), "{} differences\n\n{}\n", wrong.len(), wrong.join("\n\n"));
            }
        )*
    };
}

/// What holds.
mod contract {
    fixtures! {
        conventions: "00-conventions.http",
    }
}

/// What doesn't hold yet, because its routes are being built: these tests fail until then. Whoever
/// brings a route moves its line up.
mod pending {
    fixtures! {
    }
}
