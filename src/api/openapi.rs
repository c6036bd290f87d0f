//! The API as an OpenAPI 3.1 document, made from the same types that are on the wire and from the
//! table of routes (`controller::routes::table`). Pure.

use std::marker::PhantomData;

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{API_VERSION, grant::Access};

/// Makes a type's schema.
pub type SchemaFn = fn(&mut SchemaGenerator) -> Schema;

/// What a request or an answer carries.
#[derive(Debug, Clone, Copy)]
pub enum Payload {
    /// Nothing.
    Nothing,
    /// Plain text.
    Text,
    /// JSON.
    Json(SchemaFn),
    /// JSON, page by page.
    Page(SchemaFn),
}

/// A payload told by a type, for the table of routes.
pub trait Shape {
    /// The payload.
    const PAYLOAD: Payload;
}

/// Nothing at all.
#[derive(Debug)]
pub struct Nothing;

/// Plain text.
#[derive(Debug)]
pub struct Text;

/// JSON of this type.
#[derive(Debug)]
pub struct One<T>(PhantomData<T>);

/// A list of these, page by page.
#[derive(Debug)]
pub struct Pages<T>(PhantomData<T>);

impl Shape for Nothing {
    const PAYLOAD: Payload = Payload::Nothing;
}

impl Shape for Text {
    const PAYLOAD: Payload = Payload::Text;
}

impl<T: JsonSchema> Shape for One<T> {
    const PAYLOAD: Payload = Payload::Json(SchemaGenerator::subschema_for::<T>);
}

impl<T: JsonSchema> Shape for Pages<T> {
    const PAYLOAD: Payload = Payload::Page(SchemaGenerator::subschema_for::<super::wire::Page<T>>);
}

/// One route as the document has it.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The method.
    pub method: Method,
    /// The path, parameters in braces.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Names of what may stand in the query, pages aside.
    pub query: &'static [&'static str],
    /// What a request carries.
    pub takes: Payload,
    /// Status of an answer when all went well.
    pub status: u16,
    /// What that carries.
    pub gives: Payload,
}

impl Operation {
    /// The names in the path's braces.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        let inner = |part: &'static str| part.strip_prefix('{')?.strip_suffix('}');
        self.path.split('/').filter_map(inner)
    }

    /// A name for programs: `post_apps_app_config`.
    fn id(&self) -> String {
        let words = self.path.split(['/', '.']).filter(|word| *word != "v1");
        std::iter::once(self.method.as_str().to_ascii_lowercase())
            .chain(words.map(|word| word.trim_matches(['{', '}']).to_owned()))
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join("_")
    }

    /// The kind of thing that it is about: the last fixed word but one, or the only one.
    fn tag(&self) -> &'static str {
        let words: Vec<_> = self
            .path
            .split('/')
            .filter(|word| !matches!(*word, "" | "v1") && !word.starts_with('{'))
            .collect();
        match words.as_slice() {
            [] => "platform",
            ["apps", kind, ..] => kind,
            [kind, ..] => kind,
        }
    }

    fn describe(&self, schemas: &mut SchemaGenerator) -> Value {
        let parameter = |place: &str, name: &str| {
            let number = matches!(name, "page" | "page_size" | "log_lines");
            let kind = if number { "integer" } else { "string" };
            json!({
                "name": name, "in": place, "required": place == "path", "schema": { "type": kind },
            })
        };
        let pages: &[&str] = match self.gives {
            Payload::Page(_) => &["page", "page_size"],
            _ => &[],
        };
        let parameters: Vec<Value> = self
            .parameters()
            .map(|name| parameter("path", name))
            .chain(
                pages
                    .iter()
                    .chain(self.query)
                    .map(|name| parameter("query", name)),
            )
            .collect();
        let mut answer = json!({ "description": "All went well." });
        if let Some(content) = content(self.gives, schemas) {
            answer["content"] = content;
        }
        let mut responses = json!({
            self.status.to_string(): answer,
            "default": { "$ref": "#/components/responses/Error" },
        });
        let mut operation = json!({
            "operationId": self.id(),
            "tags": [self.tag()],
            "summary": self.summary,
        });
        match self.access {
            Access::Open => operation["security"] = json!([]),
            Access::Optional => operation["security"] = json!([{}, { "token": [] }]),
            Access::Token(scope) => {
                operation["x-deis-scope"] = scope.word().into();
                responses["401"] = json!({ "$ref": "#/components/responses/Unauthorized" });
            }
        }
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(content) = content(self.takes, schemas) {
            operation["requestBody"] = json!({ "content": content });
        }
        operation["responses"] = responses;
        operation
    }
}

fn content(payload: Payload, schemas: &mut SchemaGenerator) -> Option<Value> {
    match payload {
        Payload::Nothing => None,
        Payload::Text => Some(json!({ "text/plain": { "schema": { "type": "string" } } })),
        Payload::Json(schema) | Payload::Page(schema) => {
            Some(json!({ "application/json": { "schema": schema(schemas) } }))
        }
    }
}

const ABOUT: &str = "The API of Deis v1. A slash at the end of a path is optional. Every answer has \
    the headers DEIS_API_VERSION, DEIS_PLATFORM_VERSION and X-Request-Id; those that make a release \
    have Deis-Release, too. A request's body is JSON of at most 1 MiB; an empty one stands for {}. \
    `x-deis-scope` is the narrowest scope that a token must have for an operation: read, deploy or \
    all, each of which includes those before it.";

/// The document.
#[must_use]
pub fn document<'o>(operations: impl IntoIterator<Item = &'o Operation>) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let mut paths = Map::new();
    for operation in operations {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        let method = operation.method.as_str().to_ascii_lowercase();
        path[method] = operation.describe(&mut schemas);
    }
    let error = schemas.subschema_for::<super::wire::Failure>();
    let failure = |description: &str| {
        json!({
            "description": description,
            "content": { "application/json": { "schema": error.clone() } },
        })
    };
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Deis", "version": API_VERSION, "description": ABOUT },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "responses": {
                "Error": failure("It was refused, or went wrong; the body says why."),
                "Unauthorized": failure("There is no token, or one that is not valid any more."),
            },
            "schemas": schemas.take_definitions(true),
            "securitySchemes": {
                "token": {
                    "type": "apiKey", "in": "header", "name": "Authorization",
                    "description": "The word token, a space, and the token itself.",
                },
            },
        },
    })
}
