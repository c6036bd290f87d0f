//! Who may do what, from a table (`permissions.table`); and that the table has all routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use serde_json::Value;

use super::contract::{holes::Holes, stage::Stage};
use crate::{
    controller::{routes, testing::Site},
    store::{Txn, keys},
};

/// A request, and the status for each column.
struct Row {
    at: String,
    method: String,
    path: String,
    statuses: Vec<u16>,
    body: Value,
}

struct Table {
    columns: Vec<String>,
    rows: Vec<Row>,
}

fn table(file: &str) -> Table {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/controller/tests");
    let text = fs::read_to_string(path.join(file)).expect("table");
    let mut lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    let head: Vec<String> = lines.next().map(|(_, line)| words(line)).expect("head");
    let columns = head[1..head.len() - 1].to_vec();
    let row = |(number, line): (usize, &str)| {
        let (fields, body) = line.split_at(
            [" {\"", " {}", " []"]
                .iter()
                .find_map(|body| line.find(body))
                .unwrap_or(line.len()),
        );
        let fields: Vec<String> = words(fields);
        let at = format!("{file}:{}", number + 1);
        assert_eq!(fields.len(), 2 + columns.len(), "{at}: a status per column");
        Row {
            at,
            method: fields[0].clone(),
            path: fields[1].clone(),
            statuses: fields[2..]
                .iter()
                .map(|s| s.parse().expect("status"))
                .collect(),
            body: match body.trim() {
                "" => Value::Null,
                body => serde_json::from_str(body).expect("body"),
            },
        }
    };
    Table {
        rows: lines.map(row).collect(),
        columns,
    }
}

/// What each request finds, and the caller's token.
async fn scene(caller: &str) -> (Stage, String) {
    let (mut stage, mut holes) = (Stage::empty().await, Holes::default());
    for set_up in [
        "user other",
        "user collaborator",
        "user owner",
        "user third",
        "user admin admin",
        "app blog owner collaborator",
        "app admins admin",
        "push blog owner web worker",
        "builder-key sesame",
    ] {
        let words: Vec<&str> = set_up.split(' ').collect();
        stage.set_up(&words, &mut holes).await.expect(set_up);
    }
    let owner = holes.get("token:owner").expect("token").to_owned();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDEGl2LqqDEQRqlaKFa5ytPhhVQJPBnRPPLVxLm1yVjT";
    for (path, body) in [
        (
            "/v1/keys/",
            serde_json::json!({ "id": "laptop", "public": key }),
        ),
        (
            "/v1/apps/blog/domains/",
            serde_json::json!({ "domain": "blog.example.org" }),
        ),
    ] {
        let reply = stage.site().call(&owner, "POST", path, body).await;
        assert_eq!(reply.status(), 201, "{path}: {}", reply.body);
    }
    let scope = match caller {
        "reader" => "read",
        "deployer" => "deploy",
        _ => {
            let token = holes.get(&format!("token:{caller}"));
            let token = token.unwrap_or_default().to_owned();
            return (stage, token);
        }
    };
    let body = serde_json::json!({ "name": caller, "scope": scope });
    let reply = stage.site().call(&owner, "POST", "/v1/tokens/", body).await;
    let token = reply.json()["token"].as_str().expect("token").to_owned();
    (stage, token)
}

async fn run(file: &str) -> Vec<String> {
    let Table { columns, rows } = table(file);
    let mut wrong = Vec::new();
    for row in &rows {
        for (column, want) in columns.iter().zip(&row.statuses) {
            let (mut stage, token) = scene(column).await;
            let mut path = row.path.clone();
            if path.contains("{build}") {
                let app = "blog".parse().expect("name");
                let builds = stage.site().store.list(&keys::builds(&app)).await;
                let id = builds.expect("builds").entries[0].1.value.uuid;
                path = path.replace("{build}", &id.to_string());
            }
            if path.ends_with("/logs") {
                let words = ["logger", "one"];
                let done = stage.set_up(&words, &mut Holes::default()).await;
                done.expect("a log");
            }
            let call = stage
                .site()
                .call(&token, &row.method, &path, row.body.clone());
            let reply = call.await;
            if reply.status() != *want {
                let Row { at, method, .. } = row;
                let got = reply.status();
                wrong.push(format!(
                    "{at}: {method} {path} by {column}: expected {want}, got {got} {}",
                    reply.body
                ));
            }
        }
    }
    wrong
}

#[tokio::test]
async fn who_may_do_what() {
    let wrong = run("permissions.table").await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How well a path is one of a form: the number of parts that are the same.
fn likeness(form: &str, path: &str) -> Option<usize> {
    let path = path.trim_end_matches('/');
    let (form, path): (Vec<_>, Vec<_>) = (form.split('/').collect(), path.split('/').collect());
    let fits = form.len() == path.len()
        && form
            .iter()
            .zip(&path)
            .all(|(f, p)| f.starts_with('{') || f == p);
    fits.then(|| form.iter().zip(&path).filter(|(f, p)| f == p).count())
}

/// A route that is in no row would be one that nobody has thought about.
#[tokio::test]
async fn every_route_is_in_the_table() {
    let routes: BTreeSet<(String, String)> = routes::table()
        .into_iter()
        .map(|row| {
            (
                row.operation.path.to_owned(),
                row.operation.method.to_string(),
            )
        })
        .collect();
    let mut rows = BTreeSet::new();
    let mut example = BTreeMap::new();
    for row in table("permissions.table").rows {
        let form = routes
            .iter()
            .filter_map(|(form, _)| Some((likeness(form, &row.path)?, form)))
            .max();
        if let Some((_, form)) = form {
            rows.insert((form.clone(), row.method));
            example.insert(form.clone(), row.path);
        }
    }
    let missing: Vec<_> = routes.difference(&rows).collect();
    assert!(missing.is_empty(), "in no row: {missing:?}");
    // What there is, is also what a 405 says.
    let (stage, token) = scene("admin").await;
    for (form, path) in example {
        let has_put = routes.contains(&(form.clone(), "PUT".to_owned()));
        let method = if has_put { "PATCH" } else { "PUT" };
        let reply = stage.site().call(&token, method, &path, Value::Null).await;
        assert_eq!(reply.line, "HTTP/1.1 405 METHOD NOT ALLOWED", "{path}");
        let allowed = reply.header("Allow").expect("405 says what is allowed");
        let allowed: BTreeSet<&str> = allowed.split(',').map(str::trim).collect();
        let of_form = routes.iter().filter(|(path, _)| *path == form);
        let mut methods: BTreeSet<&str> = of_form.map(|(_, method)| method.as_str()).collect();
        if methods.contains("GET") {
            methods.insert("HEAD");
        }
        assert_eq!(allowed, methods, "{form}");
    }
}

/// A token of a deleted user proves nobody, even when the name is taken again.
#[tokio::test]
async fn a_name_that_is_taken_again_is_somebody_else() {
    let site = Site::start().await;
    let old = site.user("ada", false).await;
    let name = "ada".parse().expect("name");
    let txn = Txn::new().delete(&keys::user(&name));
    site.store.commit(txn).await.expect("deleted");
    let status = async |token: &str| site.call(token, "GET", "/v1/", Value::Null).await.status();
    assert_eq!(status(&old).await, 401);
    let new = site.user("ada", false).await;
    assert_eq!((status(&old).await, status(&new).await), (401, 200));
}
