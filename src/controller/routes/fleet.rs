//! `/fleet/v1/`: fleet's API, for administrators. `fleet_api` answers; this lets in, and notes who did
//! what.

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::Method;

use crate::{
    controller::{
        self, access, body,
        error::ApiError,
        extract::{By, Caller},
    },
    fleet_api::{self, Asked},
    model::Action,
    ops::audit,
    store::Txn,
};

type Ctl = State<controller::State>;

pub(super) async fn any(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(actor): By,
    request: Request,
) -> Result<Response, ApiError> {
    access::administrator(&user)?;
    let (parts, body) = request.into_parts();
    let body = body::read(body).await?;
    let path = parts.uri.path();
    let path = path.strip_prefix(fleet_api::ROOT).unwrap_or(path);
    let is_change = parts.method != Method::GET && parts.method != Method::HEAD;
    let note = is_change.then(|| {
        let about = path.trim_matches('/');
        let action = if about == "machines" {
            Action::Machine
        } else {
            Action::Unit
        };
        actor.note(action, format!("{} {about}", parts.method))
    });
    let with = note.map_or_else(Txn::new, |note| note.of_platform(None));
    let asked = Asked {
        method: &parts.method,
        path,
        uri: &parts.uri,
        headers: &parts.headers,
        body: &body,
    };
    let response = fleet_api::answer(&ctl.store, asked, &with).await;
    if is_change && response.status().is_success() {
        audit::prune_platform(&ctl.store).await;
    }
    Ok(response)
}
