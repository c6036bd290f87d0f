//! Nothing of deis-v1.md, section 4.3, is forgotten: each of the 40 routes has its answers in fixtures.

use std::collections::BTreeSet;

use super::{contract, pending, read, story::Step};

/// Of each route: its methods and path, and the statuses that the reference names for it, and those
/// that 4.1 has for all routes of its kind. An `*` in a path stands for one part of it.
const ROUTES: [(u8, &str, &[&str]); 43] = [
    (1, "/healthz", &["GET 200", "HEAD 200"]),
    (2, "/v1", &["GET 200", "GET 401"]),
    (
        3,
        "/v1/auth/register",
        &["POST 201", "POST 400", "POST 403"],
    ),
    (4, "/v1/auth/login", &["POST 200", "POST 400"]),
    (
        5,
        "/v1/auth/cancel",
        &["DELETE 204", "DELETE 401", "DELETE 403", "DELETE 409"],
    ),
    (
        6,
        "/v1/auth/passwd",
        &["POST 200", "POST 400", "POST 401", "POST 403"],
    ),
    (
        7,
        "/v1/auth/tokens",
        &["POST 200", "POST 401", "POST 403", "POST 404"],
    ),
    (8, "/v1/apps", &["GET 200", "GET 401"]),
    (9, "/v1/apps", &["POST 201", "POST 400", "POST 401"]),
    (10, "/v1/apps/*", &["GET 200", "GET 403", "GET 404"]),
    (11, "/v1/apps/*", &["POST 200", "POST 403", "POST 404"]),
    (
        12,
        "/v1/apps/*",
        &["DELETE 204", "DELETE 403", "DELETE 404"],
    ),
    (13, "/v1/apps/*/config", &["GET 200", "GET 403"]),
    (
        14,
        "/v1/apps/*/config",
        &[
            "POST 201", "POST 400", "POST 403", "POST 404", "POST 409", "POST 503",
        ],
    ),
    (15, "/v1/apps/*/builds", &["GET 200", "GET 403"]),
    (
        16,
        "/v1/apps/*/builds",
        &["POST 201", "POST 400", "POST 403", "POST 503"],
    ),
    (17, "/v1/apps/*/builds/*", &["GET 200", "GET 404"]),
    (18, "/v1/apps/*/releases", &["GET 200", "GET 403"]),
    (19, "/v1/apps/*/releases/*", &["GET 200", "GET 404"]),
    (
        20,
        "/v1/apps/*/releases/rollback",
        &["POST 201", "POST 400", "POST 403", "POST 404", "POST 503"],
    ),
    (21, "/v1/apps/*/containers", &["GET 200"]),
    (22, "/v1/apps/*/containers/*", &["GET 200"]),
    (23, "/v1/apps/*/containers/*/*", &["GET 200", "GET 404"]),
    (
        24,
        "/v1/apps/*/containers/restart",
        &["POST 200", "POST 503"],
    ),
    (24, "/v1/apps/*/containers/*/restart", &["POST 200"]),
    (
        24,
        "/v1/apps/*/containers/*/*/restart",
        &["POST 200", "POST 404"],
    ),
    (
        25,
        "/v1/apps/*/domains",
        &["GET 200", "POST 201", "POST 400", "POST 403"],
    ),
    (
        26,
        "/v1/apps/*/domains/*",
        &["DELETE 204", "DELETE 403", "DELETE 404"],
    ),
    (
        27,
        "/v1/apps/*/scale",
        &["POST 204", "POST 400", "POST 403", "POST 404", "POST 503"],
    ),
    (
        28,
        "/v1/apps/*/logs",
        &["GET 200", "GET 204", "GET 403", "GET 500"],
    ),
    (
        29,
        "/v1/apps/*/run",
        &["POST 200", "POST 400", "POST 403", "POST 503"],
    ),
    (
        30,
        "/v1/apps/*/perms",
        &["GET 200", "GET 403", "POST 201", "POST 403", "POST 404"],
    ),
    (31, "/v1/apps/*/perms/*", &["DELETE 204", "DELETE 403"]),
    (
        32,
        "/v1/keys",
        &["GET 200", "GET 401", "POST 201", "POST 400"],
    ),
    (
        33,
        "/v1/keys/*",
        &["GET 200", "GET 404", "DELETE 204", "DELETE 404"],
    ),
    (
        34,
        "/v1/certs",
        &["GET 200", "GET 401", "POST 201", "POST 400"],
    ),
    (
        35,
        "/v1/certs/*",
        &["GET 200", "GET 404", "DELETE 204", "DELETE 404"],
    ),
    (
        36,
        "/v1/admin/perms",
        &[
            "GET 200", "GET 401", "GET 403", "POST 201", "POST 403", "POST 404",
        ],
    ),
    (
        36,
        "/v1/admin/perms/*",
        &["DELETE 204", "DELETE 403", "DELETE 404"],
    ),
    (37, "/v1/users", &["GET 200", "GET 401", "GET 403"]),
    (
        38,
        "/v1/hooks/push",
        &["POST 201", "POST 401", "POST 403", "POST 404"],
    ),
    (39, "/v1/hooks/build", &["POST 200", "POST 401", "POST 503"]),
    (
        40,
        "/v1/hooks/config",
        &["POST 200", "POST 401", "POST 404"],
    ),
];

/// Whether a path is of this form.
fn is(form: &str, path: &str) -> bool {
    let (form, path): (Vec<_>, Vec<_>) = (form.split('/').collect(), path.split('/').collect());
    form.len() == path.len() && form.iter().zip(&path).all(|(f, p)| *f == "*" || f == p)
}

#[test]
fn every_route_has_each_of_its_answers_in_a_fixture() {
    let mut seen = BTreeSet::new();
    for file in [contract::FIXTURES, pending::FIXTURES].concat() {
        for step in read(file).steps {
            let Step::Exchange(exchange) = step else {
                continue;
            };
            let mut words = exchange.request.head[0].split(' ');
            let (method, target) = (words.next().expect("method"), words.next().expect("target"));
            let path = target
                .split('?')
                .next()
                .expect("path")
                .trim_end_matches('/');
            let answer = format!("{method} {}", exchange.answer.status());
            // A title's number must be that of the path, or the story tells something else.
            for number in &exchange.routes {
                let of_path = ROUTES
                    .iter()
                    .find(|(n, form, _)| n == number && is(form, path));
                let at = format!("{file}:{}: {}", exchange.line, exchange.title);
                assert!(of_path.is_some(), "{at}: {path} is not route {number}");
                seen.insert((*number, of_path.expect("found").1, answer.clone()));
            }
        }
    }
    let missing: Vec<String> = ROUTES
        .iter()
        .flat_map(|(number, form, answers)| answers.iter().map(move |a| (*number, *form, *a)))
        .filter(|(number, form, answer)| !seen.contains(&(*number, *form, (*answer).to_owned())))
        .map(|(number, form, answer)| format!("{number}: {answer} {form}"))
        .collect();
    assert!(missing.is_empty(), "in no fixture: {missing:#?}");
    let numbers: BTreeSet<u8> = ROUTES.iter().map(|(number, ..)| *number).collect();
    assert!(numbers.into_iter().eq(1..=40));
}
