//! Tests of the route table.

use proptest::prelude::*;

use super::*;
use crate::plan::host::parse_host;

fn put<'a>(key: &'a str, revision: Revision, value: &'a str) -> RecordChange<'a> {
    RecordChange {
        key,
        revision,
        value: Some(value.as_bytes()),
    }
}

fn delete(key: &str, revision: Revision) -> RecordChange<'_> {
    RecordChange {
        key,
        revision,
        value: None,
    }
}

/// A table whose backends are their own endpoints.
fn table(changes: &[RecordChange<'_>]) -> (RouteTable<Endpoint>, Applied<Endpoint>) {
    let mut table = RouteTable::default();
    let applied = table.apply(changes.iter().copied(), &mut Endpoint::clone);
    (table, applied)
}

fn domain_record(domain: &str, app: &str) -> String {
    format!(
        r#"{{"schema":1,"domain":"{domain}","app":"{app}","owner":"ada","created":"2026-01-01T00:00:00Z"}}"#
    )
}

fn part_record(address: &str) -> String {
    format!(r#"{{"schema":1,"id":"6f0e5a52-55c7-4b3a-8d55-0c1d55b8a111","address":"{address}"}}"#)
}

fn answer(table: &RouteTable<Endpoint>, header: &str) -> String {
    let Ok(host) = parse_host(header) else {
        return "invalid".to_owned();
    };
    match table.lookup(&host) {
        Target::App(name, _) => name.to_string(),
        Target::Controller(slots) => format!("controller x{}", slots.len()),
        Target::Unknown => "unknown".to_owned(),
    }
}

#[test]
fn host_names_lead_to_their_apps() {
    let www = domain_record("www.example.com", "blog");
    let wild = domain_record("*.shop.example", "shop");
    let apex = domain_record("intranet", "blog");
    let stolen = domain_record("shop.localhost", "blog");
    let api = domain_record("deis.example.com", "blog");
    let ghost = domain_record("ghost.example", "gone");
    let part = part_record("10.0.0.1:8000");
    let (table, applied) = table(&[
        put("/deis/platform/domain", 1, "localhost"),
        put("/deis/routes/blog", 2, "{}"),
        put("/deis/routes/shop", 2, "{}"),
        put("/deis/routes/www", 2, "{}"),
        put("/deis/domains/www.example.com", 3, &www),
        put("/deis/domains/*.shop.example", 3, &wild),
        put("/deis/domains/intranet", 3, &apex),
        put("/deis/domains/shop.localhost", 3, &stolen),
        put("/deis/domains/deis.example.com", 3, &api),
        put("/deis/domains/ghost.example", 3, &ghost),
        put("/deis/controller/hosts/10.0.0.1", 4, &part),
        put("/deis/services/bare/bare_v1.web.1", 5, "10.0.0.1:20000"),
    ]);
    assert!(applied.bad.is_empty(), "{:?}", applied.bad);
    let cases = [
        ("blog.localhost", "blog"),
        ("BLOG.LocalHost", "blog"),
        ("blog.localhost:8080", "blog"),
        ("blog.localhost.", "blog"),
        ("blog.localhost.:80", "blog"),
        ("blog.any.other.domain", "blog"),
        ("bare.localhost", "bare"),
        ("blog", "unknown"),
        ("intranet", "blog"),
        ("localhost", "unknown"),
        ("nobody.localhost", "unknown"),
        ("www.example.com", "blog"),
        ("www.other.com", "www"),
        ("a.shop.example", "shop"),
        ("blog.shop.example", "shop"),
        ("a.b.shop.example", "unknown"),
        ("shop.localhost", "shop"),
        ("ghost.example", "unknown"),
        ("deis.localhost", "controller x1"),
        ("deis.example.com", "controller x1"),
        ("10.0.0.1", "unknown"),
        ("[::1]:80", "unknown"),
        ("", "invalid"),
        (".", "invalid"),
        ("blog..localhost", "invalid"),
        ("blog.localhost:80:80", "invalid"),
        ("blog.localhost:http", "invalid"),
        ("blog.localhost/x", "invalid"),
        ("blog localhost", "invalid"),
        ("bl\u{f6}g.localhost", "invalid"),
        ("[::1", "invalid"),
        ("[::1]x", "invalid"),
        ("[/etc]", "invalid"),
    ];
    for (header, want) in cases {
        assert_eq!(answer(&table, header), want, "Host: {header}");
    }
    let long = "a.".repeat(127) + "b";
    assert_eq!(answer(&table, &long), "invalid", "longer than 253 bytes");
}

#[test]
fn a_bad_record_harms_only_itself() {
    let wrong = domain_record("a.example", "blog");
    let (mut table, applied) = table(&[
        put("/deis/services/blog/blog_v1.web.1", 1, "10.0.0.1:20000"),
        put("/deis/services/blog/blog_v1.web.2", 2, "nonsense"),
        put("/deis/services/blog/blog_v1.web.3", 3, "0.0.0.0:20000"),
        put("/deis/services/blog/other_v1.web.1", 4, "10.0.0.1:20001"),
        put("/deis/routes/Blog", 5, "{}"),
        put("/deis/routes/shop", 6, "not json"),
        put("/deis/domains/b.example", 7, &wrong),
        put("/deis/controller/hosts/10.0.0.1", 8, "{}"),
        put("/deis/platform/domain", 9, "not a domain"),
        put("/deis/hosts/unrelated", 10, "\u{0}"),
    ]);
    let bad: Vec<&str> = applied.bad.iter().map(|b| b.key.as_str()).collect();
    assert_eq!(
        bad,
        [
            "/deis/services/blog/blog_v1.web.2",
            "/deis/services/blog/blog_v1.web.3",
            "/deis/services/blog/other_v1.web.1",
            "/deis/routes/Blog",
            "/deis/routes/shop",
            "/deis/domains/b.example",
            "/deis/controller/hosts/10.0.0.1",
            "/deis/platform/domain",
        ]
    );
    assert_eq!(table.backends().count(), 1);
    // An address that becomes unreadable is withdrawn: its old value is history.
    let applied = table.apply(
        [put("/deis/services/blog/blog_v1.web.1", 11, "?")],
        &mut Endpoint::clone,
    );
    assert_eq!(applied.withdrawn.len(), 1);
    // Who may come in by a route that can't be read is not known: nobody, also after a restart.
    let saved = table.export();
    let saved: Vec<_> = saved
        .iter()
        .map(|record| put(&record.key, record.revision, &record.value))
        .collect();
    let (again, _) = self::table(&saved);
    for table in [&table, &again] {
        match table.lookup("shop.localhost") {
            Target::App(_, shop) => assert!(!shop.admits([127, 0, 0, 1].into(), false)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(table.app_count(), 1);
}

#[test]
fn each_publication_is_another_incarnation() {
    let key = "/deis/services/blog/blog_v1.web.1";
    let (mut table, _) = table(&[put(key, 5, "10.0.0.1:20000")]);
    let mut apply = |change| table.apply([change], &mut Endpoint::clone).withdrawn;
    assert!(
        apply(put(key, 5, "10.0.0.1:20000")).is_empty(),
        "seen twice"
    );
    let old = apply(put(key, 7, "10.0.0.1:20000"));
    assert_eq!(old[0].revision, 5, "published again");
    let old = apply(put(key, 8, "10.0.0.2:20000"));
    assert_eq!(old[0].revision, 7, "moved");
    let old = apply(delete(key, 9));
    assert_eq!(old[0].revision, 8, "withdrawn");
    assert!(apply(delete(key, 9)).is_empty(), "withdrawn twice");
}

#[test]
fn an_app_without_processes_is_known_until_its_route_goes() {
    let (mut table, _) = table(&[put("/deis/routes/blog", 1, r#"{"maintenance":true}"#)]);
    match table.lookup("blog.localhost") {
        Target::App(_, app) => assert!(app.in_maintenance() && app.slots().is_empty()),
        other => panic!("{other:?}"),
    }
    table.apply([delete("/deis/routes/blog", 2)], &mut Endpoint::clone);
    assert_eq!(answer(&table, "blog.localhost"), "unknown");
}

#[test]
fn a_resync_is_a_difference() {
    let blog = "/deis/services/blog/blog_v1.web.1";
    let shop = "/deis/services/shop/shop_v1.web.1";
    let new = "/deis/services/new/new_v1.web.1";
    let (mut table, _) = table(&[
        put(blog, 1, "10.0.0.1:20000"),
        put(shop, 2, "10.0.0.1:20001"),
        put("/deis/routes/blog", 3, "{}"),
    ]);
    let applied = table.replace(
        "/deis/services/",
        &[
            put(blog, 1, "10.0.0.1:20000"),
            put(new, 9, "10.0.0.3:20000"),
        ],
        &mut Endpoint::clone,
    );
    assert_eq!(applied.withdrawn.len(), 1);
    assert_eq!(applied.withdrawn[0].key, shop);
    assert_eq!(answer(&table, "blog.x"), "blog");
    assert_eq!(answer(&table, "new.x"), "new");
    assert_eq!(answer(&table, "shop.x"), "unknown");
}

fn any_change() -> impl Strategy<Value = (String, Option<String>)> {
    let service = ("[abc]", 1u32..4, 1u16..4).prop_map(|(app, n, port)| {
        (
            format!("/deis/services/{app}/{app}_v1.web.{n}"),
            format!("10.0.0.1:{port}"),
        )
    });
    let route = ("[abc]", any::<bool>()).prop_map(|(app, m)| {
        (
            format!("/deis/routes/{app}"),
            format!(r#"{{"maintenance":{m}}}"#),
        )
    });
    let domain = ("[de]", "[abc]").prop_map(|(d, app)| {
        (
            format!("/deis/domains/{d}.example"),
            domain_record(&format!("{d}.example"), &app),
        )
    });
    let part = ("(controller|builder)", 1u8..3).prop_map(|(p, n)| {
        (
            format!("/deis/{p}/hosts/10.0.0.{n}"),
            part_record(&format!("10.0.0.{n}:80")),
        )
    });
    let junk = (
        "/deis/(services|routes|domains|platform)/[a-zA-Z/.]{0,9}",
        ".{0,9}",
    );
    let any = prop_oneof![4 => service, 2 => route, 2 => domain, 1 => part, 1 => junk];
    (any, prop::bool::weighted(0.7)).prop_map(|((key, value), put)| (key, put.then_some(value)))
}

proptest! {
    #[test]
    fn parsing_a_host_never_panics_and_is_idempotent(header in "\\PC{0,80}|[a-zA-Z0-9.:\\[\\]-]{0,80}") {
        if let Ok(host) = parse_host(&header) && !host.contains(':') {
            let again = parse_host(&host).expect("a parsed host is valid").into_owned();
            prop_assert!(again == host || host.ends_with('.'));
            prop_assert_eq!(host.to_ascii_lowercase(), host.into_owned());
        }
    }

    /// What a table exports makes the same table again; every backend that was ever made is either
    /// in the table or was handed back exactly once.
    #[test]
    fn nothing_is_lost(changes in prop::collection::vec(any_change(), 0..60)) {
        let mut table: RouteTable<Endpoint> = RouteTable::default();
        let mut made = Vec::new();
        let mut gone = Vec::new();
        for (i, (key, value)) in changes.iter().enumerate() {
            let change = RecordChange { key, revision: i as i64 + 1, value: value.as_deref().map(str::as_bytes) };
            let applied = table.apply([change], &mut |e: &Endpoint| { made.push(e.clone()); e.clone() });
            gone.extend(applied.withdrawn);
            gone.extend(applied.parts_gone);
        }
        gone.extend(table.backends().cloned());
        gone.sort();
        made.sort();
        prop_assert_eq!(made, gone);

        let saved = table.export();
        let records: Vec<RecordChange<'_>> = saved.iter()
            .map(|r| RecordChange { key: &r.key, revision: r.revision, value: Some(r.value.as_bytes()) })
            .collect();
        let mut again: RouteTable<Endpoint> = RouteTable::default();
        let applied = again.apply(records.iter().copied(), &mut Endpoint::clone);
        // Routes are kept as they are: one that can't be read shuts its app.
        prop_assert!(applied.bad.iter().all(|bad| bad.key.starts_with("/deis/routes/")));
        prop_assert_eq!(again.export(), saved.clone());
        let applied = table.replace("/deis/", &records, &mut Endpoint::clone);
        prop_assert!(applied.withdrawn.is_empty() && applied.parts_gone.is_empty(), "a resync to the same is no change");
        prop_assert_eq!(table.export(), saved);
    }
}
