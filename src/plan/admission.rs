//! Who may come in: the whitelist of the release that becomes active, as routers are told it.

use crate::{
    model::{AppName, Route, SCHEMA, Whitelist},
    store::{Txn, Versioned, keys},
};

/// Brings an app's route in line with a whitelist: part of the transaction that makes the release
/// active whose it is, so that the two never differ. Empty when nothing changes.
pub fn admit(app: &AppName, route: Option<&Versioned<Route>>, whitelist: &Whitelist) -> Txn {
    let key = keys::route(app);
    let (base, current) = match route {
        Some(there) => (
            Txn::new().unchanged(&key, there.mod_revision),
            there.value.clone(),
        ),
        None => (
            Txn::new().absent(&key),
            Route {
                schema: SCHEMA,
                ..Route::default()
            },
        ),
    };
    if current.whitelist == *whitelist {
        return Txn::new();
    }
    let next = Route {
        whitelist: whitelist.clone(),
        ..current
    };
    base.put(&key, &next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_changes_only_when_the_whitelist_does() {
        let app: AppName = "blog".parse().expect("app");
        let list: Whitelist = "192.0.2.7:x".parse().expect("list");
        let there = |whitelist: &Whitelist| Versioned {
            value: Route {
                schema: SCHEMA,
                maintenance: true,
                page: None,
                hold: false,
                whitelist: whitelist.clone(),
            },
            mod_revision: 5,
            create_revision: 3,
        };
        let open = Whitelist::default();
        for (route, wanted) in [
            (None, &open),
            (Some(there(&open)), &open),
            (Some(there(&list)), &list),
        ] {
            assert!(admit(&app, route.as_ref(), wanted).is_empty(), "{route:?}");
        }
        let key = keys::route(&app);
        // The rest of the route stays as it is.
        let want = Txn::new().unchanged(&key, 5).put(&key, &there(&list).value);
        assert_eq!(admit(&app, Some(&there(&open)), &list), want);
        let first = Route {
            schema: SCHEMA,
            maintenance: false,
            page: None,
            hold: false,
            whitelist: list.clone(),
        };
        let want = Txn::new().absent(&key).put(&key, &first);
        assert_eq!(admit(&app, None, &list), want);
    }
}
