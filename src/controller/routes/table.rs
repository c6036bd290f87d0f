//! The table of routes: the router, the gate's rules and the OpenAPI document are made from it.
//!
//! A new route is one line here and nothing anywhere else, then `make openapi` to write the document
//! anew:
//!
//! ```text
//! METHOD "path" Access handler, Takes => status Gives, "Summary", "query";
//! ```
//!
//! - The path has no slash at its end; parameters are in braces, and one that is an app must be
//!   called `{app}`, so that tokens for some apps only are held to it.
//! - Access is the narrowest scope that a token must have: `Read`, `Deploy` or `All` (for what touches
//!   accounts, lets somebody in or takes something away for good); `Open` when the route looks at no
//!   token (health), `Optional` when it works without one, too (a first registration, builder hooks). A route that upgrades
//!   to a websocket is a `GET`, with the access of what it does: `Deploy` for `run`.
//! - `Takes` (left out when there is no body) and `Gives` are `Nothing`, `Text`, `One<T>` or `Pages<T>`
//!   with a shape of `api::ask` or `api::wire`, which derives `JsonSchema`.
//! - Names of what may stand in the query come last, if any; those of pages go without saying.

use axum::{
    Router,
    middleware::{from_fn_with_state, map_response},
    response::Response,
    routing::{MethodFilter, MethodRouter, on},
};
use http::Method;

use super::{
    apps, audit, builds, certs, config, containers, domains, fleet, health, hooks, keys, logs,
    openapi, perms, releases, root, run, sessions, switch, tokens, users,
};
use crate::{
    api::{
        ask, fleet as of_fleet,
        grant::Access,
        openapi::{Nothing, One, Operation, Pages, Shape, Text},
        wire,
    },
    controller::{State, error::ApiError, gate::gate, metrics::Route},
    model::Scope,
};

/// A route: what it is, and who answers it.
pub(in crate::controller) struct Row {
    pub(in crate::controller) operation: Operation,
    handler: MethodRouter<State>,
}

macro_rules! access {
    (Open) => {
        Access::Open
    };
    (Optional) => {
        Access::Optional
    };
    ($scope:ident) => {
        Access::Token(Scope::$scope)
    };
}

macro_rules! takes {
    () => {
        Nothing
    };
    ($shape:ty) => {
        $shape
    };
}

macro_rules! routes {
    ($($method:ident $path:literal $access:ident $handler:path $(, $takes:ty)? => $status:literal $gives:ty, $summary:literal $(, $query:literal)*;)*) => {
        /// All routes.
        pub(in crate::controller) fn table() -> Vec<Row> {
            vec![$(Row {
                operation: Operation {
                    method: Method::$method,
                    path: $path,
                    access: access!($access),
                    summary: $summary,
                    query: &[$($query),*],
                    takes: <takes!($($takes)?) as Shape>::PAYLOAD,
                    status: $status,
                    gives: <$gives as Shape>::PAYLOAD,
                },
                handler: on(MethodFilter::$method, $handler),
            }),*]
        }
    };
}

routes! {
    GET "/healthz" Open health => 200 Text, "Tells that the controller serves";
    GET "/v1" Read root => 200 One<serde_json::Value>, "Tells that this is a controller, and the token valid";
    GET "/v1/openapi.json" Open openapi => 200 One<serde_json::Value>, "This document";

    POST "/v1/auth/register" Optional sessions::register, One<ask::Register> => 201 One<wire::User>, "Registers an account; the first one is an administrator's";
    POST "/v1/auth/login" Open sessions::login, One<ask::Login> => 200 One<wire::TokenReply>, "Mints a token for a name and password";
    DELETE "/v1/auth/cancel" All sessions::cancel, One<ask::Username> => 204 Nothing, "Deletes an account that owns no app: one's own, or another's for administrators";
    POST "/v1/auth/passwd" All sessions::passwd, One<ask::Password> => 200 One<serde_json::Value>, "Changes a password and ends all other logins of its user";
    POST "/v1/auth/tokens" All sessions::regenerate, One<ask::Regenerate> => 200 One<wire::TokenReply>, "Ends all tokens of a user and mints a new one; or everybody's, and mints none";
    GET "/v1/tokens" All tokens::list => 200 Pages<wire::Token>, "Lists one's own tokens, logins included";
    POST "/v1/tokens" All tokens::create, One<ask::NewToken> => 201 One<wire::NewToken>, "Mints a token of a narrower scope, for some apps or for some time";
    DELETE "/v1/tokens/{id}" All tokens::revoke => 204 Nothing, "Ends a token, by its id or name; `current` is the one that asks";

    GET "/v1/keys" All keys::list => 200 Pages<wire::Key>, "Lists one's own SSH keys";
    POST "/v1/keys" All keys::add, One<ask::Key> => 201 One<wire::Key>, "Adds an SSH key";
    GET "/v1/keys/{*id}" All keys::get => 200 One<wire::Key>, "Shows an SSH key";
    DELETE "/v1/keys/{*id}" All keys::remove => 204 Nothing, "Removes an SSH key";

    GET "/v1/apps" Read apps::list => 200 Pages<wire::App>, "Lists the apps that one may use";
    POST "/v1/apps" All apps::create, One<ask::App> => 201 One<wire::App>, "Creates an app";
    GET "/v1/apps/{app}" Read apps::get => 200 One<wire::App>, "Shows an app";
    POST "/v1/apps/{app}" All apps::transfer, One<ask::Transfer> => 200 Nothing, "Gives an app to another owner";
    DELETE "/v1/apps/{app}" All apps::destroy => 204 Nothing, "Destroys an app with all that belongs to it";
    GET "/v1/apps/{app}/audit" Read audit::of_app => 200 Pages<wire::Audit>, "Lists what was done to an app by whom, the newest first";
    GET "/v1/apps/{app}/config" Read config::get => 200 One<wire::Config>, "Shows variables, limits and tags of the active release";
    POST "/v1/apps/{app}/config" Deploy config::set, One<ask::Config> => 201 One<wire::Config>, "Changes variables, limits or tags; answers when that is deployed";
    GET "/v1/apps/{app}/builds" Read builds::list => 200 Pages<wire::Build>, "Lists builds, the newest first";
    POST "/v1/apps/{app}/builds" Deploy builds::create, One<ask::Build> => 201 One<wire::Build>, "Deploys an image; answers when that is done";
    GET "/v1/apps/{app}/builds/{uuid}" Read builds::get => 200 One<wire::Build>, "Shows a build";
    GET "/v1/apps/{app}/releases" Read releases::list => 200 Pages<wire::Release>, "Lists releases, the newest first";
    POST "/v1/apps/{app}/releases/rollback" Deploy releases::rollback, One<ask::Rollback> => 201 One<wire::RollbackReply>, "Goes back to an earlier release, as a new one; answers when that is deployed";
    GET "/v1/apps/{app}/releases/{version}" Read releases::get => 200 One<wire::Release>, "Shows a release, given as v2";
    GET "/v1/apps/{app}/containers" Read containers::list => 200 Pages<wire::Container>, "Lists processes, with stats=1 how they are", "stats";
    POST "/v1/apps/{app}/containers/restart" Deploy containers::restart => 200 One<Vec<wire::Container>>, "Replaces all processes; answers when the new ones serve";
    GET "/v1/apps/{app}/containers/{kind}" Read containers::list_type => 200 Pages<wire::Container>, "Lists processes of a type", "stats";
    POST "/v1/apps/{app}/containers/{kind}/restart" Deploy containers::restart_type => 200 One<Vec<wire::Container>>, "Replaces the processes of a type";
    GET "/v1/apps/{app}/containers/{kind}/{number}" Read containers::get => 200 One<wire::Container>, "Shows a process", "stats";
    POST "/v1/apps/{app}/containers/{kind}/{number}/restart" Deploy containers::restart_one => 200 One<Vec<wire::Container>>, "Replaces a process";
    POST "/v1/apps/{app}/scale" Deploy containers::scale, One<ask::Scale> => 204 Nothing, "Changes the wanted number of processes; answers when they run";
    GET "/v1/apps/{app}/single" Read containers::single => 200 One<wire::Single>, "Lists the types of which there are never two processes of one number at a time";
    POST "/v1/apps/{app}/single" Deploy containers::mark_single, One<ask::Single> => 200 One<wire::Single>, "Marks types as single, or as others; restarts nothing";
    GET "/v1/apps/{app}/maintenance" Read switch::maintenance => 200 One<wire::Maintenance>, "Tells whether an app is out of service, and what its visitors read";
    POST "/v1/apps/{app}/maintenance" Deploy switch::set_maintenance, One<ask::Maintenance> => 200 One<wire::Maintenance>, "Takes an app out of service, or back into it; its processes run on";
    GET "/v1/apps/{app}/rollout" Read switch::policy => 200 One<wire::Policy>, "Shows how new releases are watched before they replace the old one";
    POST "/v1/apps/{app}/rollout" Deploy switch::set_policy, One<ask::Policy> => 200 One<wire::Policy>, "Changes how new releases are watched, or with on=false that they are";
    GET "/v1/apps/{app}/logs" Read logs::get => 200 Text, "Shows the last lines that an app has logged, and with follow=1 what comes, of processes like web or web.1, since a time or duration", "log_lines", "follow", "ps", "since";
    POST "/v1/apps/{app}/run" Deploy run::run, One<ask::Run> => 200 One<wire::RunReply>, "Runs a command in a process of its own; the answer's type is text/plain";
    GET "/v1/apps/{app}/run" Deploy run::attach => 101 Nothing, "The same as a websocket: input, output and a terminal while it runs";
    GET "/v1/apps/{app}/domains" Read domains::list => 200 Pages<wire::Domain>, "Lists an app's domains";
    POST "/v1/apps/{app}/domains" All domains::add, One<ask::Domain> => 201 One<wire::Domain>, "Adds a domain to an app";
    DELETE "/v1/apps/{app}/domains/{domain}" All domains::remove => 204 Nothing, "Removes a domain from an app";
    GET "/v1/apps/{app}/certs" Read domains::certs => 200 One<Vec<wire::DomainCert>>, "Shows how each of an app's domains gets its certificate";
    GET "/v1/apps/{app}/perms" Read perms::list => 200 One<wire::Perms>, "Lists who may use an app besides its owner";
    POST "/v1/apps/{app}/perms" All perms::grant, One<ask::Username> => 201 Nothing, "Lets a user use an app";
    DELETE "/v1/apps/{app}/perms/{user}" All perms::revoke => 204 Nothing, "Takes that back";

    GET "/v1/certs" All certs::list => 200 Pages<wire::Cert>, "Lists one's own certificates";
    POST "/v1/certs" All certs::add, One<ask::Cert> => 201 One<wire::Cert>, "Adds a certificate with its key";
    GET "/v1/certs/{name}" All certs::get => 200 One<wire::Cert>, "Shows a certificate";
    DELETE "/v1/certs/{name}" All certs::remove => 204 Nothing, "Removes a certificate";
    GET "/v1/certs/{name}/chain" All certs::chain => 200 One<wire::CertChain>, "Shows what stands in a certificate and its chain";

    POST "/v1/hooks/push" Optional hooks::push, One<ask::Pushed> => 201 One<wire::Push>, "Tells of a push; for the original builder, with its key in X-Deis-Builder-Auth";
    POST "/v1/hooks/build" Optional hooks::build, One<ask::Built> => 200 One<wire::HookReply>, "Deploys what the builder has pushed to the registry; answers when that is done";
    POST "/v1/hooks/config" Optional hooks::config, One<ask::Received> => 200 One<wire::Config>, "Shows the config that a build may need";

    GET "/v1/users" All users::list => 200 Pages<wire::User>, "Lists users, for administrators";
    GET "/v1/admin/perms" All users::administrators => 200 Pages<wire::Administrator>, "Lists administrators, for administrators";
    POST "/v1/admin/perms" All users::promote, One<ask::Username> => 201 Nothing, "Makes a user an administrator";
    DELETE "/v1/admin/perms/{user}" All users::demote => 204 Nothing, "Takes that back";
    GET "/v1/audit" All audit::of_platform => 200 Pages<wire::Audit>, "Lists what was done to accounts, and which apps were destroyed, for administrators";

    GET "/fleet/v1/units" All fleet::any => 200 One<of_fleet::UnitPage>, "Lists units as fleet did, for administrators as all of this", "nextPageToken";
    GET "/fleet/v1/units/{name}" All fleet::any => 200 One<of_fleet::Unit>, "Shows a unit";
    PUT "/fleet/v1/units/{name}" All fleet::any, One<of_fleet::Unit> => 201 Nothing, "Creates a unit, or changes what is wanted of one (204)";
    DELETE "/fleet/v1/units/{name}" All fleet::any => 204 Nothing, "Stops a unit and removes it";
    GET "/fleet/v1/state" All fleet::any => 200 One<of_fleet::StatePage>, "Lists units on hosts in systemd's words", "machineID", "unitName", "nextPageToken";
    GET "/fleet/v1/machines" All fleet::any => 200 One<of_fleet::MachinePage>, "Lists hosts", "nextPageToken";
    PATCH "/fleet/v1/machines" All fleet::any, One<Vec<of_fleet::PatchOp>> => 204 Nothing, "Changes hosts' labels by a JSON patch";
    GET "/fleet/v1/discovery" All fleet::any => 200 One<serde_json::Value>, "Describes fleet's API for programs";
}

/// The router over the table, each route behind the gate. A slash at a path's end has been removed
/// before.
pub(in crate::controller) fn router(state: State) -> Router {
    table()
        .into_iter()
        .fold(Router::new(), |router, Row { operation, handler }| {
            let rule = (state.clone(), operation.access);
            let gate = from_fn_with_state(rule, gate);
            let route = Route(operation.path);
            // Outside of the gate: whom it refuses has asked for this route, too.
            let mark = map_response(move |mut response: Response| {
                response.extensions_mut().insert(route);
                std::future::ready(response)
            });
            let handler = handler.route_layer(gate).route_layer(mark);
            router.route(operation.path, handler)
        })
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async |method: Method| ApiError::Method(method.to_string()))
        .with_state(state)
}
