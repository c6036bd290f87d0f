//! Automatic certificates, ordered by real hosts from an authority that is pebble (Let's Encrypt's own,
//! for tests; Debian package pebble), which looks for its proofs at one host's router.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    ground::{APP, Ground, Notes},
    support::*,
};

/// How long certificates are valid: they are renewed when a third of that is left.
const VALID: Duration = Duration::from_secs(90);
const PORTS: [u16; 4] = [14000, 15000, 14053, 14055];

fn sh(dir: &Path, script: &str) -> Ran {
    let mut command = Command::new("sh");
    command.current_dir(dir).args(["-ec", script]);
    run(&mut command, MINUTE)
}

/// An authority and the DNS that it asks, both ours, on the address under which the hosts see this
/// machine.
struct Pebble {
    programs: Vec<Child>,
    files: tempfile::TempDir,
    gateway: String,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

impl Pebble {
    /// All names lead to `router`, unless [led](Self::lead) elsewhere.
    fn start(gateway: &str, router: &str) -> Self {
        let files = tempfile::tempdir().expect("a folder");
        let script = format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
               -subj '/CN=Soak' -keyout ca.key -out ca.crt 2>&1
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN={gateway}' \
               -keyout own.key -out own.csr 2>&1
             printf 'subjectAltName=IP:{gateway}\\nbasicConstraints=CA:FALSE\\n' >ext
             openssl x509 -req -in own.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 20 \
               -extfile ext -out own.crt 2>&1"
        );
        sh(files.path(), &script).ok();
        let at = PORTS.map(|port| format!("{gateway}:{port}"));
        let config = json!({ "pebble": {
            "listenAddress": at[0],
            "managementListenAddress": at[1],
            "certificate": files.path().join("own.crt"),
            "privateKey": files.path().join("own.key"),
            "httpPort": 80,
            "tlsPort": 443,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": VALID.as_secs(),
        }});
        fs::write(files.path().join("config"), config.to_string()).expect("written");
        let program = |name: &str, args: &[&str]| {
            let mut command = Command::new(name);
            command.args(args).current_dir(files.path());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.env("PEBBLE_VA_NOSLEEP", "1");
            let child = command.spawn();
            child.unwrap_or_else(|error| panic!("{name} (package pebble): {error}"))
        };
        let dns = [
            "-dns01",
            &at[2],
            "-management",
            &at[3],
            "-defaultIPv4",
            router,
            "-defaultIPv6",
            "",
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
        ];
        let programs = vec![
            program("pebble-challtestsrv", &dns),
            program("pebble", &["-config", "config", "-dnsserver", &at[2]]),
        ];
        let pebble = Self {
            programs,
            files,
            gateway: gateway.to_owned(),
        };
        eventually("the authority answers", MINUTE, || {
            let script = format!(
                "curl -sSf --noproxy '*' --cacert ca.crt https://{}/roots/0 >root.crt",
                at[1]
            );
            let fetched = pebble.sh(&script);
            if fetched.status == Some(0) {
                Ok(())
            } else {
                Err(fetched.all())
            }
        });
        pebble
    }

    fn sh(&self, script: &str) -> Ran {
        sh(self.files.path(), script)
    }

    /// Lets a name lead to this address instead.
    fn lead(&self, name: &str, address: &str) {
        let record = json!({ "host": format!("{name}."), "addresses": [address] });
        let script = format!(
            "curl -sSf --noproxy '*' -d '{record}' http://{}:{}/add-a",
            self.gateway, PORTS[3]
        );
        self.sh(&script).ok();
    }

    /// The serial number of the certificate of this authority that a router shows for a name, whose page
    /// is asked for as well.
    fn served(&self, host: &Host, name: &str) -> Result<String, String> {
        let script = format!(
            "curl -sSf --noproxy '*' --cacert root.crt --resolve {name}:443:{0} -o page https://{name}/
             openssl s_client -connect {0}:443 -servername {name} </dev/null 2>/dev/null \
               | openssl x509 -noout -serial",
            host.address
        );
        let ran = self.sh(&script);
        if ran.status == Some(0) {
            Ok(ran.out)
        } else {
            Err(ran.all())
        }
    }

    /// Waits until every router serves the same certificate of this authority for a name, and not that
    /// one.
    fn wait_served(&self, ground: &Ground, name: &str, not: &str) -> (String, Duration) {
        let begun = Instant::now();
        let serial = eventually(&format!("{name} is served"), 3 * MINUTE, || {
            let mut serials: Vec<String> = ground
                .up()
                .map(|host| self.served(host, name))
                .collect::<Result<_, _>>()?;
            serials.dedup();
            match &serials[..] {
                [one] if one != not => Ok(one.clone()),
                others => Err(format!("{others:?}")),
            }
        });
        (serial, begun.elapsed())
    }
}

/// What the platform asks of the authority, until the trial is over.
struct Asked<'g>(&'g Ground);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let cluster = &self.0.cluster;
        for name in ["acme-directory", "acme-ca", "acme-email"] {
            cluster.deisctl(&["config", "platform", "rm", name]);
        }
    }
}

pub fn certificates_by_acme(ground: &Ground, notes: &mut Notes) {
    let app = ground.steady();
    let pebble = Pebble::start(&ground.cluster.gateway, &ground.cluster.hosts[0].address);
    let ca = fs::read_to_string(pebble.files.path().join("ca.crt")).expect("read");
    let asked = Asked(ground);
    let set = [
        "config".to_owned(),
        "platform".to_owned(),
        "set".to_owned(),
        format!("acme-directory=https://{}:{}/dir", pebble.gateway, PORTS[0]),
        format!("acme-ca={ca}"),
        "acme-email=ops@example.test".to_owned(),
    ];
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    ground.cluster.deisctl(&set).ok();

    let name = format!("www.{APP}.test");
    app.deis(&["domains:add", &name]).ok();
    let (first, took) = pebble.wait_served(ground, &name, "");
    notes.figure(format!(
        "a domain's certificate served by all routers {:.1} s after it was added",
        took.as_secs_f64()
    ));

    // A name that leads elsewhere is its own domain's trouble, and says why.
    let astray = format!("astray.{APP}.test");
    pebble.lead(&astray, &pebble.gateway);
    app.deis(&["domains:add", &astray]).ok();
    let why = eventually("the order fails", 3 * MINUTE, || {
        let listed = app.deis(&["certs:auto"]).ok().out;
        let line = listed.lines().find(|line| line.contains(&astray));
        match line {
            Some(line) if line.contains("failed") => Ok(line.to_owned()),
            _ => Err(listed),
        }
    });
    let why: Vec<&str> = why.split_whitespace().collect();
    notes.figure(format!("one that leads elsewhere: {}", why.join(" ")));

    // The controller that has begun an order is killed; the next one gets it done.
    let leader = ground.leader().expect("one leads").clone();
    let second = format!("second.{APP}.test");
    app.deis(&["domains:add", &second]).ok();
    let kill = "systemctl kill -s KILL 'deis-controller@*'";
    ground.cluster.sh(&leader, kill).ok();
    let (_, took) = pebble.wait_served(ground, &second, "");
    notes.figure(format!(
        "one more although the leading controller was killed, {:.1} s after it was added",
        took.as_secs_f64()
    ));

    let (_, took) = pebble.wait_served(ground, &name, &first);
    notes.figure(format!(
        "renewed before its {} s were over, waited for {:.1} s",
        VALID.as_secs(),
        took.as_secs_f64()
    ));
    for domain in [&name, &astray, &second] {
        app.deis(&["domains:remove", domain]).ok();
    }
    eventually("nothing is left of them", MINUTE, || {
        let left = ground.values("/deis/acme/orders/")?;
        let certs = ground.values("/deis/certs/")?;
        if left.is_empty()
            && !certs
                .keys()
                .any(|key| key.ends_with(&format!(".{APP}.test")))
        {
            Ok(())
        } else {
            Err(format!("{left:?} {:?}", certs.keys()))
        }
    });
    drop(asked);
}
