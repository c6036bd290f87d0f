//! The client of Deis 1.13.4 as the contract describes it: what it sends, byte by byte, and what it
//! can't make sense of. Whatever would have made the old program fail, warn or crash ends the test.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

/// How long the server may take to answer: changes answer when they are done.
const PATIENCE: Duration = Duration::from_secs(240);

/// Reason phrases that scripts look for, as the old server sent them.
const REASONS: [&str; 10] = [
    "200 OK",
    "201 CREATED",
    "204 NO CONTENT",
    "400 BAD REQUEST",
    "401 UNAUTHORIZED",
    "403 FORBIDDEN",
    "404 NOT FOUND",
    "409 CONFLICT",
    "500 INTERNAL SERVER ERROR",
    "503 SERVICE UNAVAILABLE",
];

/// `~/.deis/client.json`: these five fields, neither more nor less.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub username: String,
    pub ssl_verify: bool,
    pub controller: String,
    pub token: String,
    pub response_limit: u32,
}

/// An error as the old client showed it: the status line, and a line for each message.
#[derive(Debug)]
pub struct Refused {
    pub status: String,
    pub lines: Vec<String>,
}

impl Refused {
    /// This status, and a line that contains this.
    #[track_caller]
    pub fn says(&self, status: &str, line: &str) {
        let found = self.lines.iter().any(|l| l.contains(line));
        assert!(
            self.status == status && found,
            "{status} and {line:?} in {self:#?}"
        );
    }
}

/// An answer of the controller.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Reply {
    /// The body with the types that the old client decoded into.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }
}

macro_rules! shape {
    ($name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        /// As the old client decoded it: other fields are passed over, other types are fatal.
        #[derive(Debug, Clone, Deserialize)]
        #[allow(dead_code, reason = "decoded for their types")]
        pub struct $name { $(pub $field: $kind),* }
    };
}

shape!(App {
    uuid: String,
    id: String,
    owner: String,
    url: String,
    created: String,
    updated: String,
});
shape!(Process {
    uuid: String,
    owner: String,
    app: String,
    release: String,
    r#type: String,
    num: i64,
    state: String,
    created: String,
    updated: String,
});
shape!(Config {
    uuid: String, app: String, owner: String, values: Map<String, Value>,
    memory: Map<String, Value>, cpu: Map<String, Value>, tags: Map<String, Value>,
    created: String, updated: String,
});
shape!(Release {
    uuid: String, app: String, owner: String, version: i64, summary: String, config: String,
    build: Option<String>, created: String, updated: String,
});
shape!(Build {
    uuid: String, app: String, owner: String, image: String, sha: String,
    procfile: std::collections::BTreeMap<String, String>, created: String, updated: String,
});
shape!(Key {
    uuid: String,
    id: String,
    owner: String,
    public: String,
    created: String,
    updated: String,
});
shape!(Domain {
    app: String,
    domain: String,
    owner: String,
    created: String,
    updated: String
});
shape!(Cert {
    id: i64,
    owner: String,
    common_name: String,
    expires: String
});
shape!(Person {
    username: String,
    email: String,
    first_name: String,
    last_name: String,
    is_superuser: bool,
    is_staff: bool,
    is_active: bool,
    last_login: String,
    date_joined: String,
});
shape!(Named { username: String });
shape!(Users { users: Vec<String> });
shape!(Token { token: String });
shape!(Version { version: i64 });

/// Somebody with the old program, and a home of his own.
pub struct OldClient {
    pub home: PathBuf,
    host: String,
}

impl OldClient {
    /// The program, freshly unpacked: nobody is logged in.
    pub fn new(home: PathBuf) -> Self {
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(home.join(".ssh")).expect("home");
        Self {
            home,
            host: "deis.localhost".to_owned(),
        }
    }

    fn profile_path(&self) -> PathBuf {
        self.home.join(".deis/client.json")
    }

    /// Who is logged in.
    pub fn profile(&self) -> Option<Profile> {
        let text = fs::read_to_string(self.profile_path()).ok()?;
        Some(serde_json::from_str(&text).expect("a profile with the fields that the old one knows"))
    }

    fn save(&self, username: &str, token: String) {
        let profile = Profile {
            username: username.to_owned(),
            ssl_verify: false,
            controller: format!("http://{}", self.host),
            token,
            response_limit: 100,
        };
        fs::create_dir_all(self.home.join(".deis")).expect("folder");
        let text = serde_json::to_string(&profile).expect("JSON");
        fs::write(self.profile_path(), text).expect("profile");
    }

    /// One request on a connection of its own, through the router.
    #[track_caller]
    fn exchange(
        &self,
        method: &str,
        path: &str,
        extra: &str,
        body: &str,
    ) -> Result<Reply, Refused> {
        // The old program's runtime told the length of a body, or of a POST without one.
        let length = if body.is_empty() && method != "POST" {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: Deis Client v1.13.4\r\n{length}\
             {extra}Accept-Encoding: gzip\r\nConnection: close\r\n\r\n{body}",
            self.host
        );
        let mut stream = TcpStream::connect("127.0.0.1:80").expect("the router");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.write_all(request.as_bytes()).expect("sent");
        // Keep-alive is off: the answer ends with the connection.
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let shown = || format!("{request}\n{}", String::from_utf8_lossy(&answer));
        read.unwrap_or_else(|error| panic!("{error}: {}", shown()));
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no end of the head: {}", shown()));
        let head = std::str::from_utf8(&answer[..end]).expect("a head in ASCII");
        let status = head
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 "));
        let status = status.unwrap_or_else(|| panic!("no status line: {}", shown()));
        assert!(REASONS.contains(&status), "{}", shown());
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (found, value) = line.split_once(": ")?;
                found.eq_ignore_ascii_case(name).then_some(value)
            })
        };
        // Otherwise it warned, before anything else that it said.
        assert_eq!(header("DEIS_API_VERSION"), Some("1.7"), "{}", shown());
        assert_eq!(header("Content-Encoding"), None, "{}", shown());
        let rest = &answer[end + 4..];
        let body = if header("Transfer-Encoding") == Some("chunked") {
            unchunk(rest)
        } else {
            if let Some(length) = header("Content-Length") {
                assert_eq!(length, rest.len().to_string(), "{}", shown());
            }
            rest.to_vec()
        };
        let code: u16 = status[..3].parse().expect("a status");
        match code {
            200..=299 => Ok(Reply { status: code, body }),
            _ => Err(Refused {
                status: status.to_owned(),
                lines: error_lines(&body),
            }),
        }
    }

    /// A request as whoever is logged in, or as nobody.
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, body: &str) -> Result<Reply, Refused> {
        let token = self.profile().map(|profile| profile.token);
        self.send_as(token.as_deref(), method, path, body)
    }

    /// A request with a token, or without.
    #[track_caller]
    pub fn send_as(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Reply, Refused> {
        let authorization = token.map_or(String::new(), |token| {
            format!("Authorization: token {token}\r\n")
        });
        let extra = format!("{authorization}Content-Type: application/json\r\n");
        self.exchange(method, path, &extra, body)
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Result<Reply, Refused> {
        self.send("POST", path, &body.to_string())
    }

    /// A list as the old client asked for it, and how many there are in all.
    #[track_caller]
    pub fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        limit: u32,
    ) -> Result<(Vec<T>, f64), Refused> {
        let reply = self.send("GET", &format!("{path}?page_size={limit}"), "")?;
        let page: Map<String, Value> = reply.json();
        let count = page["count"].as_f64().expect("a number");
        assert!(page["results"].is_array(), "{page:?}");
        let results = serde_json::from_value(page["results"].clone());
        Ok((results.unwrap_or_else(|e| panic!("{e} in {page:?}")), count))
    }

    #[track_caller]
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refused> {
        Ok(self.send("GET", path, "")?.json())
    }

    /// Before it sent a password anywhere, it asked whether a controller is there.
    #[track_caller]
    fn check_connection(&self) {
        let asked = self.exchange("GET", "/v1/", "", "");
        assert_eq!(asked.expect_err("anonymous").status, "401 UNAUTHORIZED");
    }

    #[track_caller]
    pub fn register(&self, name: &str, password: &str) -> Result<(), Refused> {
        self.check_connection();
        let body = json!({
            "username": name, "password": password, "email": format!("{name}@example.com"),
        });
        let reply = self.post("/v1/auth/register/", &body)?;
        assert_eq!(reply.status, 201);
        self.login(name, password)
    }

    #[track_caller]
    pub fn login(&self, name: &str, password: &str) -> Result<(), Refused> {
        self.check_connection();
        let body = json!({ "username": name, "password": password }).to_string();
        let reply = self.send_as(None, "POST", "/v1/auth/login/", &body)?;
        self.save(name, reply.json::<Token>().token);
        Ok(())
    }

    pub fn logout(&self) {
        fs::remove_file(self.profile_path()).expect("profile");
    }

    /// `auth:regenerate`, for oneself.
    #[track_caller]
    pub fn regenerate(&self) -> Result<(), Refused> {
        let reply = self.send("POST", "/v1/auth/tokens/", "")?;
        let profile = self.profile().expect("logged in");
        self.save(&profile.username, reply.json::<Token>().token);
        Ok(())
    }

    #[track_caller]
    pub fn passwd(&self, old: &str, new: &str) -> Result<(), Refused> {
        let body = json!({ "password": old, "new_password": new });
        self.post("/v1/auth/passwd/", &body).map(drop)
    }

    /// `auth:cancel`, which logs in again first.
    #[track_caller]
    pub fn cancel(&self, name: &str, password: &str) -> Result<(), Refused> {
        self.login(name, password)?;
        let body = json!({ "username": name }).to_string();
        self.send("DELETE", "/v1/auth/cancel/", &body)?;
        self.logout();
        Ok(())
    }

    /// `keys:add`: the file as it is, called by its comment.
    #[track_caller]
    pub fn add_key(&self, public: &str) -> Result<Key, Refused> {
        let id = public.trim_end().splitn(3, ' ').nth(2).expect("a comment");
        let reply = self.post("/v1/keys/", &json!({ "id": id, "public": public }))?;
        Ok(reply.json())
    }

    /// `keys:list`: the ends of the keys, cut by bytes.
    #[track_caller]
    pub fn keys(&self) -> Vec<String> {
        let (keys, _) = self.list::<Key>("/v1/keys/", 100).expect("keys");
        keys.into_iter()
            .map(|key| {
                let (first, last) = (&key.public[..16], &key.public[key.public.len() - 10..]);
                format!("{} {first}...{last}", key.id)
            })
            .collect()
    }

    #[track_caller]
    pub fn create(&self, id: Option<&str>) -> Result<App, Refused> {
        let body = id.map_or(String::new(), |id| json!({ "id": id }).to_string());
        let reply = self.send("POST", "/v1/apps/", &body)?;
        assert_eq!(reply.status, 201);
        Ok(reply.json())
    }

    /// `ps:list`, as it showed them.
    #[track_caller]
    pub fn ps(&self, app: &str) -> Result<Vec<String>, Refused> {
        let path = format!("/v1/apps/{app}/containers/");
        let (list, _) = self.list::<Process>(&path, 100)?;
        Ok(list.iter().map(Process::line).collect())
    }

    /// `ps:scale web=3 worker=1`
    #[track_caller]
    pub fn scale(&self, app: &str, counts: &[(&str, i64)]) -> Result<(), Refused> {
        let body: Map<String, Value> = counts
            .iter()
            .map(|(kind, count)| ((*kind).to_owned(), json!(count)))
            .collect();
        let path = format!("/v1/apps/{app}/scale/");
        let reply = self.post(&path, &Value::Object(body))?;
        assert!(reply.status == 204 && reply.body.is_empty(), "{reply:?}");
        Ok(())
    }

    /// `ps:restart`: nothing, `web/` or `web/2/`
    #[track_caller]
    pub fn restart(&self, app: &str, which: &str) -> Result<Vec<Process>, Refused> {
        let path = format!("/v1/apps/{app}/containers/{which}restart/");
        Ok(self.send("POST", &path, "")?.json())
    }

    /// A change of the config. What it did not understand it left out, and sent the rest.
    #[track_caller]
    pub fn change(
        &self,
        app: &str,
        part: &str,
        pairs: Map<String, Value>,
    ) -> Result<Config, Refused> {
        let mut body = Map::new();
        if !pairs.is_empty() {
            body.insert(part.to_owned(), Value::Object(pairs));
        }
        let path = format!("/v1/apps/{app}/config/");
        let reply = self.post(&path, &Value::Object(body))?;
        assert_eq!(reply.status, 201);
        let config: Config = reply.json();
        config.check();
        Ok(config)
    }

    /// `config:set`; gives the release, as it showed it.
    #[track_caller]
    pub fn config_set(&self, app: &str, pairs: &[&str]) -> Result<String, Refused> {
        let pairs = pairs.iter().filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let start = name.chars().next()?;
            let is_name = !start.is_ascii_digit()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            (is_name && !value.is_empty()).then(|| (name.to_owned(), json!(value)))
        });
        let config = self.change(app, "values", pairs.collect())?;
        let release = config.values.get("DEIS_RELEASE").expect("the release");
        Ok(release.as_str().expect("text").to_owned())
    }

    /// `config:unset`, `limits:unset`, `tags:unset`
    #[track_caller]
    pub fn unset(&self, app: &str, part: &str, names: &[&str]) -> Result<Config, Refused> {
        let nulls = names.iter().map(|name| ((*name).to_owned(), Value::Null));
        self.change(app, part, nulls.collect())
    }

    /// `config:push`: lines of a file; what follows the last newline is lost.
    #[track_caller]
    pub fn config_push(&self, app: &str, file: &str) -> Result<String, Refused> {
        let mut lines: Vec<&str> = file.split('\n').collect();
        lines.pop();
        self.config_set(app, &lines)
    }

    #[track_caller]
    pub fn config(&self, app: &str) -> Result<Config, Refused> {
        let config: Config = self.get(&format!("/v1/apps/{app}/config/"))?;
        config.check();
        Ok(config)
    }

    /// `config:pull`: the file that it wrote.
    #[track_caller]
    pub fn config_pull(&self, app: &str) -> Result<String, Refused> {
        let config = self.config(app)?;
        let line = |(name, value): (&String, &Value)| {
            format!("{name}={}\n", value.as_str().expect("text"))
        };
        Ok(config.values.iter().map(line).collect())
    }

    /// `releases:rollback`; gives the new version.
    #[track_caller]
    pub fn rollback(&self, app: &str, to: Option<i64>) -> Result<i64, Refused> {
        let body = to.map_or(String::new(), |to| json!({ "version": to }).to_string());
        let path = format!("/v1/apps/{app}/releases/rollback/");
        Ok(self.send("POST", &path, &body)?.json::<Version>().version)
    }

    /// `apps:run`: how it ended, and what it wrote.
    #[track_caller]
    pub fn run(&self, app: &str, command: &str) -> Result<(f64, String), Refused> {
        let path = format!("/v1/apps/{app}/run");
        Ok(self.post(&path, &json!({ "command": command }))?.json())
    }

    #[track_caller]
    pub fn logs(&self, app: &str, lines: Option<u32>) -> Result<Vec<String>, Refused> {
        let query = lines.map_or(String::new(), |lines| format!("?log_lines={lines}"));
        let reply = self.send("GET", &format!("/v1/apps/{app}/logs{query}"), "")?;
        let text = String::from_utf8(reply.body).expect("UTF-8");
        Ok(text.lines().map(str::to_owned).collect())
    }
}

impl Process {
    /// `web.1 up (v2)`
    pub fn line(&self) -> String {
        let Self {
            r#type: kind,
            num,
            state,
            release,
            ..
        } = self;
        format!("{kind}.{num} {state} ({release})")
    }
}

impl Config {
    /// It took shares for a number and crashed on anything else.
    #[track_caller]
    fn check(&self) {
        let texts = [&self.values, &self.memory, &self.tags];
        let mut texts = texts.into_iter().flat_map(Map::values);
        assert!(texts.all(Value::is_string), "{self:?}");
        assert!(self.cpu.values().all(Value::is_number), "{self:?}");
    }
}

/// A line for each message of an error; what is neither text nor a list of texts it could not show.
#[track_caller]
fn error_lines(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body);
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(&text) else {
        return vec![text.into_owned()];
    };
    let mut lines = Vec::new();
    for (name, value) in &fields {
        let texts = match value {
            Value::String(text) => vec![text.clone()],
            Value::Array(texts) => texts
                .iter()
                .map(|text| {
                    text.as_str()
                        .unwrap_or_else(|| panic!("{text} in {fields:?}"))
                        .to_owned()
                })
                .collect(),
            other => panic!("can't handle {name}: {other}"),
        };
        lines.extend(texts.into_iter().map(|text| format!("{name}: {text}")));
    }
    lines
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let line = rest
            .windows(2)
            .position(|two| two == b"\r\n")
            .expect("a size");
        let size = std::str::from_utf8(&rest[..line]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
}
