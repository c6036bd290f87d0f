//! `--output json`: stdout holds one JSON value with the API's names, and nothing else.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{KEY, User};

impl User {
    /// What a command shows as JSON.
    async fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--output", "json"]).collect();
        let (code, out, err) = self.both(&args).await;
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}: {out}");
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {out}"))
    }
}

fn names(value: &Value) -> BTreeSet<&str> {
    let object = value.as_object().unwrap_or_else(|| panic!("{value}"));
    object.keys().map(String::as_str).collect()
}

fn fields(list: &str) -> BTreeSet<&str> {
    list.split(' ').collect()
}

const APP: &str = "created id owner structure updated url uuid";
const PROCESS: &str = "app created num owner release state type updated uuid";
const RELEASE: &str = "app build config created owner summary updated uuid version";
const CONFIG: &str = "app cpu created memory owner tags updated uuid values";
const KEY_FIELDS: &str = "created fingerprint fingerprint_sha256 id owner public updated uuid";
const DOMAIN: &str = "app created domain owner updated";

#[tokio::test]
async fn lists_and_what_is_shown() {
    let user = User::with_app().await;
    user.site.push("blog", "ada").await;
    let identity =
        json!({ "username": "ada", "controller": user.json(&["whoami"]).await["controller"] });
    assert_eq!(user.json(&["whoami"]).await, identity);
    let login = [
        "login",
        &user.controller(),
        "--username=ada",
        "--password=x",
    ];
    assert_eq!(user.json(&login).await, identity);

    let shop = user.json(&["create", "shop", "--no-remote"]).await;
    assert_eq!(names(&shop), fields(APP));
    let apps = user.json(&["apps"]).await;
    assert_eq!((&apps[0]["id"], &apps[1]), (&json!("blog"), &shop));
    let (_, out, err) = user.both(&["apps", "-l1", "--output=json"]).await;
    assert!(
        out.starts_with("[\n  {") && out.contains("\"blog\"") && !out.contains("shop"),
        "{out}"
    );
    assert_eq!(err, "Apps (1 of 2): --limit shows more\n");
    let info = user.json(&["info"]).await;
    assert_eq!(names(&info), fields(&format!("{APP} containers domains")));
    assert_eq!(names(&info["containers"][0]), fields(PROCESS));
    assert_eq!(
        user.json(&["open"]).await,
        json!({ "url": "http://blog.example.com" })
    );
    let remote = json!({ "remote": "deis", "url": "ssh://git@127.0.0.1:2222/blog.git" });
    assert_eq!(user.json(&["git:remote"]).await, remote);

    let set = user.json(&["config:set", "A=1", "M=a\nb"]).await;
    assert_eq!(names(&set), fields(CONFIG));
    assert_eq!(set["values"], json!({ "A": "1", "M": "a\nb" }));
    assert_eq!(user.json(&["config", "--oneline"]).await, set);
    assert_eq!(
        user.json(&["config:unset", "M"]).await["values"],
        json!({ "A": "1" })
    );
    let limits = json!({ "memory": { "web": "256M" }, "cpu": {} });
    assert_eq!(user.json(&["limits:set", "web=256M"]).await, limits);
    assert_eq!(user.json(&["limits"]).await, limits);
    assert_eq!(
        user.json(&["limits:unset", "web"]).await["memory"],
        json!({})
    );
    assert_eq!(user.json(&["tags"]).await, json!({ "tags": {} }));

    let processes = user.json(&["scale", "web=2"]).await;
    assert_eq!(processes.as_array().map(Vec::len), Some(2));
    assert_eq!(names(&processes[1]), fields(PROCESS));
    let with_figures = user.json(&["ps"]).await;
    assert_eq!(names(&with_figures[1]), fields(&format!("{PROCESS} stats")));
    assert_eq!(
        names(&with_figures[1]["stats"]),
        fields("cpu_permille exit memory_bytes memory_limit_bytes restarts uptime_secs")
    );
    assert_eq!(
        names(&user.json(&["ps:restart", "web.2"]).await[0]),
        fields(PROCESS)
    );

    let releases = user.json(&["releases"]).await;
    assert_eq!(names(&releases[0]), fields(RELEASE));
    assert_eq!(user.json(&["releases:info", "v1"]).await["version"], 1);
    let newest = releases[0]["version"].as_u64().expect("number");
    assert_eq!(
        user.json(&["rollback", "v2"]).await,
        json!({ "version": newest + 1 })
    );
    let builds = user.json(&["builds"]).await;
    assert_eq!(
        names(&builds[0]),
        fields("app created dockerfile image owner procfile sha updated uuid")
    );

    let domain = user.json(&["domains:add", "blog.example.org"]).await;
    assert_eq!(names(&domain), fields(DOMAIN));
    assert_eq!(user.json(&["domains"]).await, json!([domain]));
    let file = user.home.path().join("k.pub");
    std::fs::write(&file, KEY).expect("key");
    let key = user.json(&["keys:add", file.to_str().expect("path")]).await;
    assert_eq!(names(&key), fields(KEY_FIELDS));
    assert_eq!(user.json(&["keys"]).await, json!([key]));
    assert_eq!(user.json(&["perms"]).await, json!({ "users": [] }));
    assert_eq!(
        user.json(&["perms:list", "--admin"]).await[0]["username"],
        "ada"
    );
    assert_eq!(user.json(&["users"]).await[0]["username"], "ada");
    assert_eq!(
        names(&user.json(&["version"]).await),
        fields("api_version version")
    );
}

#[tokio::test]
async fn nothing_to_show_and_refusals() {
    let user = User::with_app().await;
    let quiet = |args: &'static [&'static str]| {
        let user = &user;
        async move {
            let args: Vec<&str> = args.iter().copied().chain(["--output=json"]).collect();
            assert_eq!(
                user.both(&args).await,
                (0, String::new(), String::new()),
                "{args:?}"
            );
        }
    };
    user.site.user("bob", false).await;
    quiet(&["perms:create", "bob"]).await;
    quiet(&["perms:delete", "bob"]).await;
    quiet(&["apps:transfer", "bob"]).await;
    quiet(&["destroy", "--confirm=blog"]).await;
    quiet(&["logout"]).await;

    let (code, out, err) = user.both(&["apps", "--nope", "--output=json"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    let err: Value = serde_json::from_str(&err).expect("one object");
    assert!(
        err["error"]
            .as_str()
            .expect("text")
            .starts_with("unexpected argument '--nope' found")
    );
}

#[tokio::test]
async fn proposals() {
    let user = User::with_app().await;
    user.site.push("blog", "ada").await;
    user.ok(&["config:set", "MODE=test"]).await;
    let cases: &[(&[&str], &str)] = &[
        (
            &["deis", "sc"],
            "scale\tSet how many processes of each type run\n",
        ),
        (
            &["deis", "config:un"],
            "config:unset\tRemove config variables, and deploy the app without them\n",
        ),
        (&["deis", "info", "-a", ""], "blog\t\n"),
        (&["deis", "info", "--app=b"], "--app=blog\t\n"),
        (&["deis", "config:unset", ""], "MODE\t\n"),
        (&["deis", "rollback", "v2"], "v2\tada deployed 0123456\n"),
        (&["deis", "restart", ""], "web\t\nweb.1\t\n"),
        (&["deis", "git:remote", "-r", ""], "deis\t\n"),
        (&["deis", "keys:add", ""], ":files\n"),
        (
            &["deis", "info", "-a", "blog", "--ou"],
            "--output\tOutput format: text or json\n",
        ),
        (&["deis", "nothing", ""], ""),
    ];
    for (words, want) in cases {
        let args: Vec<&str> = ["__complete", "--"]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        assert_eq!(user.ok(&args).await, *want, "{words:?}");
    }
    // Nobody is logged in, or nobody answers: nothing is proposed, and nothing said.
    user.ok(&["logout"]).await;
    assert_eq!(
        user.ok(&["__complete", "--", "deis", "info", "-a", ""])
            .await,
        ""
    );
}
