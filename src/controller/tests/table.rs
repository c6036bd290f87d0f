//! The table of routes, the router and the OpenAPI document say the same.

use std::{collections::BTreeMap, path::Path};

use http::Method;
use serde_json::{Value, json};

use crate::{
    api::{grant::Access, openapi::Operation},
    controller::{routes, testing::Site},
    model::Scope,
};

fn operations() -> Vec<Operation> {
    routes::table()
        .into_iter()
        .map(|row| row.operation)
        .collect()
}

/// A path with something in place of its parameters.
fn sample(path: &str) -> String {
    path.replace(['{', '}'], "")
}

/// Whoever is nobody learns of each route that it is there, and of nothing else: it answers before it
/// could say that there is no such thing, and only its own methods exist.
#[tokio::test]
async fn each_route_answers_and_none_besides() {
    let site = Site::start().await;
    let mut paths: BTreeMap<&str, Vec<Method>> = BTreeMap::new();
    for operation in operations() {
        let Operation { method, path, .. } = operation;
        let reply = site
            .call("", method.as_str(), &sample(path), json!({}))
            .await;
        let want: &[u16] = match operation.access {
            Access::Token(_) => &[401],
            // They ask for a key of their own.
            Access::Optional if path.starts_with("/v1/hooks/") => &[401],
            // Refused for what is missing in them, if anything.
            Access::Open | Access::Optional => &[200, 400],
        };
        let status = reply.status();
        assert!(want.contains(&status), "{method} {path}: {}", reply.line);
        let known = paths.entry(path).or_default();
        assert!(
            !known.contains(&method),
            "{method} {path} stands there twice"
        );
        known.push(method);
    }
    for (path, known) in paths {
        for method in [Method::GET, Method::POST, Method::DELETE, Method::PUT] {
            if !known.contains(&method) {
                let reply = site
                    .call("", method.as_str(), &sample(path), Value::Null)
                    .await;
                assert_eq!(reply.status(), 405, "{method} {path}");
            }
        }
    }
    // The table is the only place that adds routes.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/controller");
    let mut found = Vec::new();
    mentions(&folder, ".route(", &mut found);
    assert_eq!(found, ["table.rs"], "routes are added outside of the table");
}

/// Names of the sources outside of tests that hold a text.
fn mentions(folder: &Path, text: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "tests" {
            mentions(&path, text, found);
        } else if path.is_file()
            && std::fs::read_to_string(&path)
                .expect("a source")
                .contains(text)
        {
            found.push(name.into_owned());
        }
    }
}

/// What the gate can't know by itself: that nothing is changed under a scope that only reads, and
/// that what needs no token is a short, known list.
#[test]
fn scopes_are_what_methods_say() {
    let mut open = Vec::new();
    for Operation {
        method,
        path,
        access,
        ..
    } in operations()
    {
        match access {
            Access::Token(Scope::Read) => assert_eq!(method, Method::GET, "{path}"),
            Access::Token(Scope::Deploy) => {
                assert!(path.starts_with("/v1/apps/{app}/"), "{method} {path}");
                assert_ne!(method, Method::DELETE, "{path}");
            }
            Access::Token(Scope::All) => {}
            Access::Open | Access::Optional => open.push(path),
        }
        assert!(!path.ends_with('/'), "{path}");
    }
    assert_eq!(
        open,
        [
            "/healthz",
            "/v1/openapi.json",
            "/v1/auth/register",
            "/v1/auth/login",
            "/v1/hooks/push",
            "/v1/hooks/build",
            "/v1/hooks/config",
        ]
    );
}

/// The document that is checked in is the one that is served, and holds together.
#[tokio::test]
async fn the_document_has_not_drifted() {
    let site = Site::start().await;
    let served = site
        .call("", "GET", "/v1/openapi.json", Value::Null)
        .await
        .json();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        let text = serde_json::to_string_pretty(&served).expect("text");
        std::fs::write(&file, text + "\n").expect("written");
    }
    let text = std::fs::read_to_string(&file).expect("docs/openapi.json");
    let checked_in: Value = serde_json::from_str(&text).expect("JSON");
    assert!(
        served == checked_in,
        "the API has changed: write docs/openapi.json anew with `make openapi`, and look at the diff"
    );
    let mut references = Vec::new();
    collect(&served, &mut references);
    assert!(references.len() > 50, "{}", references.len());
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("a reference within");
        assert!(
            served.pointer(pointer).is_some(),
            "{reference} leads nowhere"
        );
    }
    let ids: Vec<&Value> = served["paths"]
        .as_object()
        .expect("paths")
        .values()
        .flat_map(|path| path.as_object().expect("methods").values())
        .map(|operation| &operation["operationId"])
        .collect();
    let mut unique: Vec<String> = ids.iter().map(ToString::to_string).collect();
    unique.sort();
    unique.dedup();
    assert_eq!(
        (unique.len(), ids.len()),
        (operations().len(), operations().len())
    );
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(to)) = fields.get("$ref") {
                references.push(to.clone());
            }
            fields.values().for_each(|v| collect(v, references));
        }
        Value::Array(values) => values.iter().for_each(|v| collect(v, references)),
        _ => {}
    }
}
