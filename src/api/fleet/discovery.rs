//! The document by which programs find out what fleet's API is like.

use serde_json::{Value, json};

/// The document that tells programs what the API is like. As fleet's, it leaves it to the client to
/// know where the API is.
#[must_use]
pub fn discovery() -> Value {
    let text = || json!({ "type": "string" });
    let list = |of: &str| json!({ "type": "array", "items": { "$ref": of } });
    let state = || json!({ "type": "string", "enum": ["inactive", "loaded", "launched"] });
    let schema = |id: &str, properties: Value| json!({ "id": id, "type": "object", "properties": properties });
    let query = |names: &[&str]| {
        let parameter = || json!({ "type": "string", "location": "query" });
        let all = names.iter().map(|name| ((*name).to_owned(), parameter()));
        Value::Object(all.collect())
    };
    let list_of = |id: &str, path: &str, names: &[&str], page: &str| {
        json!({ "id": id, "httpMethod": "GET", "path": path, "parameters": query(names),
                "response": { "$ref": page } })
    };
    let of_unit = |id: &str, method: &str, more: Value| {
        let mut described = json!({ "id": id, "httpMethod": method, "path": "units/{unitName}",
            "parameters": { "unitName": { "type": "string", "location": "path", "required": true } },
            "parameterOrder": ["unitName"] });
        if let (Value::Object(all), Value::Object(more)) = (&mut described, more) {
            all.extend(more);
        }
        described
    };
    json!({
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "fleet:v1",
        "name": "schema",
        "version": "v1",
        "title": "fleet API",
        "description": "",
        "protocol": "rest",
        "baseUrl": "$ENDPOINT/fleet/v1/",
        "basePath": "/fleet/v1/",
        "rootUrl": "$ENDPOINT/",
        "servicePath": "fleet/v1/",
        "batchPath": "batch",
        "parameters": {},
        "auth": {},
        "schemas": {
            "Machine": schema("Machine", json!({
                "id": text(), "primaryIP": text(),
                "metadata": { "type": "object", "properties": {}, "additionalProperties": text() },
            })),
            "MachinePage": schema("MachinePage", json!({ "machines": list("Machine"), "nextPageToken": text() })),
            "UnitOption": schema("UnitOption", json!({ "section": text(), "name": text(), "value": text() })),
            "Unit": schema("Unit", json!({
                "name": text(), "options": list("UnitOption"), "desiredState": state(),
                "currentState": state(), "machineID": { "type": "string", "required": true },
            })),
            "UnitPage": schema("UnitPage", json!({ "units": list("Unit"), "nextPageToken": text() })),
            "UnitState": schema("UnitState", json!({
                "name": text(), "hash": text(), "machineID": text(), "systemdLoadState": text(),
                "systemdActiveState": text(), "systemdSubState": text(),
            })),
            "UnitStatePage": schema("UnitStatePage", json!({ "states": list("UnitState"), "nextPageToken": text() })),
        },
        "resources": {
            "Machines": { "methods": {
                "List": list_of("fleet.Machine.List", "machines", &["nextPageToken"], "MachinePage"),
            } },
            "Units": { "methods": {
                "List": list_of("fleet.Unit.List", "units", &["nextPageToken"], "UnitPage"),
                "Get": of_unit("fleet.Unit.Get", "GET", json!({ "response": { "$ref": "Unit" } })),
                "Delete": of_unit("fleet.Unit.Delete", "DELETE", json!({})),
                "Set": of_unit("fleet.Unit.Set", "PUT", json!({ "request": { "$ref": "Unit" } })),
            } },
            "UnitState": { "methods": {
                "List": list_of("fleet.UnitState.List", "state",
                                &["nextPageToken", "unitName", "machineID"], "UnitStatePage"),
            } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_schema_that_it_refers_to() {
        fn walk(value: &Value, refs: &mut Vec<String>) {
            match value {
                Value::Object(all) => all.iter().for_each(|(key, value)| match value {
                    Value::String(text) if key == "$ref" => refs.push(text.clone()),
                    value => walk(value, refs),
                }),
                Value::Array(all) => all.iter().for_each(|value| walk(value, refs)),
                _ => {}
            }
        }
        let document = discovery();
        let mut refs = Vec::new();
        walk(&document, &mut refs);
        assert!(refs.len() > 8);
        assert!(
            refs.iter()
                .all(|name| document["schemas"][name].is_object()),
            "{refs:?}"
        );
    }
}
