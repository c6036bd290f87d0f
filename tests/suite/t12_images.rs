//! Images by name, the original builder's hooks, and what is left of an app: nothing.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use crate::support::*;

/// Where the test's registry listens: the bridge's address, which every host reaches.
const REGISTRY: &str = "10.21.8.1:5055";
/// The program of the test's image, which has neither shell nor library.
const SERVER: &str = "#define _GNU_SOURCE\n\
#include <arpa/inet.h>\n#include <stdlib.h>\n#include <string.h>\n#include <sys/socket.h>\n#include <unistd.h>\n\
int main(void) {\n\
  int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;\n\
  setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);\n\
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(8080) };\n\
  if (bind(s, (void *)&a, sizeof a) || listen(s, 64)) return 1;\n\
  const char *page = \"HTTP/1.1 200 OK\\r\\nContent-Length: 11\\r\\nConnection: close\\r\\n\\r\\nfrom image\\n\";\n\
  for (;;) {\n\
    int c = accept(s, 0, 0); char b[4096];\n\
    if (c < 0) continue;\n\
    if (read(c, b, sizeof b) > 0) write(c, page, strlen(page));\n\
    shutdown(c, SHUT_WR); close(c);\n\
  }\n}\n";

/// A registry beside the cluster, with one image; ends with the test.
struct Elsewhere {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn sh(dir: &std::path::Path, script: &str) -> String {
    let mut shell = Command::new("sh");
    shell.current_dir(dir).args(["-euc", script]);
    run(&mut shell, MINUTE).ok().out
}

impl Elsewhere {
    fn start() -> Self {
        let dir = tempfile::TempDir::new().expect("directory");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{REGISTRY}\"}}\n",
            dir.path().join("data").display()
        );
        fs::write(dir.path().join("config.yml"), config).expect("config");
        fs::write(dir.path().join("server.c"), SERVER).expect("program");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry");
        let elsewhere = Self { child, _dir: dir };
        eventually("the test's registry", MINUTE, || {
            get(REGISTRY, REGISTRY, "/v2/").map(drop)
        });
        elsewhere
    }

    /// Puts the image there, by HTTP as any client does.
    fn put(&self, name: &str) {
        let script = "
            cc -static -O1 -o serve server.c 2>/dev/null
            rm -rf root; mkdir root; cp serve root/serve
            tar --sort=name --mtime=@0 --owner=0 --group=0 -C root -cf layer.tar serve
            gzip -nkf layer.tar
            diff=$(sha256sum layer.tar | cut -d' ' -f1)
            arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
            printf '{\"architecture\":\"%s\",\"os\":\"linux\",\"config\":{\"Cmd\":[\"/serve\"],\"ExposedPorts\":{\"8080/tcp\":{}}},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:%s\"]}}' $arch $diff >config.json
            put() {
                digest=sha256:$(sha256sum $1 | cut -d' ' -f1)
                to=$(curl -fsS -D- -o/dev/null -X POST http://$REGISTRY/v2/$NAME/blobs/uploads/ | tr -d '\\r' | sed -n 's/^[Ll]ocation: //p')
                curl -fsS -X PUT --data-binary @$1 -H 'Content-Type: application/octet-stream' \"$to&digest=$digest\"
                echo $digest $(stat -c %s $1)
            }
            set -- $(put config.json) $(put layer.tar.gz)
            printf '{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"%s\",\"size\":%s},\"layers\":[{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"%s\",\"size\":%s}]}' $1 $2 $3 $4 >manifest.json
            curl -fsS -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary @manifest.json http://$REGISTRY/v2/$NAME/manifests/v1";
        let script = format!("REGISTRY={REGISTRY} NAME={name}\n{script}");
        sh(self._dir.path(), &script);
    }
}

/// Everything that is left of an app, by its uuid or name, in the words of whoever has it.
fn traces(cluster: &Cluster, app: &str, uuid: &str) -> Vec<String> {
    let first = &cluster.hosts[0];
    let mut found = Vec::new();
    let keys = cluster
        .etcdctl(first, "get --prefix --keys-only /deis/")
        .ok();
    // What was done to it is written down for the operators.
    let keys = keys
        .out
        .lines()
        .filter(|key| !key.starts_with("/deis/audit/"));
    let named = |key: &&str| key.split(['/', '_']).any(|part| part == app) || key.contains(uuid);
    found.extend(keys.filter(named).map(|key| format!("etcd: {key}")));
    let script = format!(
        "systemctl list-units --all --plain --no-legend '{app}_v*' | sed 's/^/unit: /'
         ls /run/systemd/system | grep '^{app}_v' | sed 's/^/unit file: /'
         podman ps --all --format '{{{{.Names}}}}' | grep '^{app}_v' | sed 's/^/container: /'
         podman images --format json | grep -o '[^\"]*/{app}/[^\"]*' | sed 's/^/image: /'
         ls -d /var/lib/deis/git/{uuid}.git /var/lib/deis/builder/cache/{uuid} 2>/dev/null | sed 's/^/repository: /'
         grep -rls deployed /var/lib/deis/logger/{app} | sed 's/^/log: /'
         ls -d /var/lib/deis/registry/docker/registry/v2/repositories/{app} 2>/dev/null | sed 's/^/images: /'
         true"
    );
    for (host, ran) in cluster.on_all(&script) {
        found.extend(ran.ok().out.lines().map(|line| format!("{host}: {line}")));
    }
    found
}

fn uuid_of(app: &App<'_>) -> String {
    let info = app.deis(&["info"]).ok().out;
    let line = info.lines().find_map(|line| line.strip_prefix("uuid:"));
    line.expect("a uuid").trim().to_owned()
}

#[test]
fn an_image_by_its_name_and_nothing_left_of_it() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::create(&user, "puller", &[]);
    let elsewhere = Elsewhere::start();
    elsewhere.put("team/site");
    let image = format!("{REGISTRY}/team/site:v1");
    let pull = |image: &str| app.deis(&["pull", image]);

    // What goes wrong takes no release number.
    let refused = pull(&image).refused();
    assert!(
        refused.all().contains("not on the public internet"),
        "{refused:#?}"
    );
    let insecure = format!("insecure={REGISTRY}");
    cluster
        .deisctl(&["config", "registry", "set", &insecure])
        .ok();
    for (image, why) in [
        ("deis/controller", "403 FORBIDDEN"),
        (&format!("{REGISTRY}/team/none:v1"), "image not found"),
        ("127.0.0.1:2379/x", "not on the public internet"),
    ] {
        let refused = pull(image).refused();
        assert!(refused.all().contains(why), "{refused:#?}");
    }

    pull(&image).ok();
    let ps = app.deis(&["ps"]).ok().out;
    assert!(ps.contains("cmd.1 up (v2)"), "{ps}");
    let answer = app.get("/").expect("the page");
    assert_eq!((answer.status, answer.body.as_str()), (200, "from image\n"));
    let releases = app.deis(&["releases"]).ok().out;
    assert!(
        releases.contains(&format!("{} deployed {image}", user.name)),
        "{releases}"
    );
    assert!(!releases.contains("v3"), "{releases}");
    app.deis(&["logs"]).ok();

    // What is looked for afterwards is there now.
    let uuid = uuid_of(&app);
    let before = traces(&cluster, "puller", &uuid);
    for what in ["etcd: ", "unit: ", "image: ", "images: ", "log: "] {
        assert!(
            before.iter().any(|trace| trace.contains(what)),
            "{what}{before:#?}"
        );
    }
    app.destroy();
    eventually("nothing is left of the app", 2 * MINUTE, || {
        let left = traces(&cluster, "puller", &uuid);
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join("\n"))
        }
    });
    cluster
        .deisctl(&["config", "registry", "rm", "insecure"])
        .ok();
}

#[test]
fn a_part_that_was_away_forgets_the_app_when_it_is_back() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "leaver");
    let uuid = uuid_of(&app);
    let parts = ["registry", "builder"];
    let script = |verb: &str, part: &str| {
        format!(
            "for u in $(ls /run/systemd/system | grep '^deis-{part}@.*service$'); do systemctl {verb} $u; done"
        )
    };
    // One replica of each is away while the app goes.
    let of = |part: &str| {
        let unit = cluster.host_of(&format!("deis-{part}@"));
        unit.clone()
    };
    let away: Vec<Host> = parts.iter().map(|part| of(part)).collect();
    for (part, host) in parts.iter().zip(&away) {
        cluster.sh(host, &script("stop", part)).ok();
    }
    app.destroy();
    for (part, host) in parts.iter().zip(&away) {
        cluster.sh(host, &script("start", part)).ok();
    }
    eventually("nothing is left of the app", 2 * MINUTE, || {
        let left = traces(&cluster, "leaver", &uuid);
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join("\n"))
        }
    });
}

#[test]
fn hooks_want_the_builders_key() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "hooked");
    app.deis(&["config:set", "GREETING=zoë %n"]).ok();
    let key = cluster.deisctl(&["config", "controller", "get", "builderKey"]);
    let key = key.ok().out.trim().to_owned();
    let stored = cluster.etcdctl(
        &cluster.hosts[0],
        "get --print-value-only /deis/controller/builderKey",
    );
    assert!(!stored.ok().out.contains(&key), "sealed");
    let ask = |hook: &str, key: &str, body: &str| {
        let head = if key.is_empty() {
            String::new()
        } else {
            format!("X-Deis-Builder-Auth: {key}\r\n")
        };
        let request = format!(
            "POST /v1/hooks/{hook}/ HTTP/1.1\r\nHost: deis.localhost\r\nContent-Type: application/json\r\n\
             {head}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut connection = Connection::open("127.0.0.1:80").expect("connection");
        connection.request(&request).expect("an answer")
    };
    let who = format!(
        r#"{{"receive_user":"{}","receive_repo":"hooked"}}"#,
        user.name
    );
    assert_eq!(ask("config", "", &who).status, 401);
    assert_eq!(ask("config", "guess", &who).status, 401);
    let config = ask("config", &key, &who);
    assert_eq!(config.status, 200, "{config:?}");
    let config: serde_json::Value = serde_json::from_str(&config.body).expect("JSON");
    assert_eq!(config["values"]["GREETING"], "zoë %n");
    let nobody = r#"{"receive_user":"nobody","receive_repo":"hooked"}"#;
    assert_eq!(ask("config", &key, nobody).status, 404);
    let push = format!(
        r#"{{"receive_user":"{}","receive_repo":"hooked","sha":"0123456701234567012345670123456701234567",
            "fingerprint":"54:6d","ssh_connection":"10.0.0.1 1 10.0.0.2 2222",
            "ssh_original_command":"git-receive-pack 'hooked.git'"}}"#,
        user.name
    );
    let pushed = ask("push", &key, &push);
    assert_eq!(pushed.status, 201, "{pushed:?}");
    let build = format!(
        r#"{{"receive_user":"{}","receive_repo":"hooked","sha":"01234567","image":"hooked","procfile":{{}},"dockerfile":""}}"#,
        user.name
    );
    // Nothing was pushed to the registries.
    let built = ask("build", &key, &build);
    assert_eq!(built.status, 400, "{built:?}");
    assert!(built.body.contains("image not found"), "{built:?}");
}
