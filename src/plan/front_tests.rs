use proptest::prelude::*;

use super::*;

fn of(rows: &[(&str, &str)]) -> (RouterSettings, Vec<Fault>) {
    RouterSettings::of(rows.iter().copied())
}

fn one(name: &str, text: &str) -> RouterSettings {
    let (settings, faults) = of(&[(name, text)]);
    assert_eq!(faults, [], "{name}={text}");
    settings
}

#[test]
fn values_as_v1_wrote_them() {
    for (text, want) in [
        ("1m", Some(1 << 20)),
        ("50M", Some(50 << 20)),
        ("2g", Some(2 << 30)),
        ("512k", Some(512 << 10)),
        ("12345", Some(12345)),
        ("0", None),
    ] {
        assert_eq!(one("bodySize", text).body_size, want, "{text}");
    }
    for (text, want) in [("1300", 1300), (" 20m ", 1200), ("1h", 3600), ("90s", 90)] {
        let want = Duration::from_secs(want);
        assert_eq!(one("defaultTimeout", text).default_timeout, want, "{text}");
    }
    let builder = one("builder/timeout/connect", "10000");
    assert_eq!(builder.builder_connect, Duration::from_secs(10));
    let builder = one("builder/timeout/tcp", "1200000");
    assert_eq!(builder.builder_idle, Duration::from_secs(1200));
    assert!(one("enforceHTTPS", "true").enforce_https);
    assert_eq!(
        one("affinityArg", "user_id").affinity.as_deref(),
        Some("user_id")
    );
    assert!(one("sslProtocols", "TLSv1.3").only_tls13);
    assert!(!one("sslProtocols", "TLSv1.2 TLSv1.3").only_tls13);
    assert!(!one("gzip", "off").access_log || one("accessLog", "true").access_log);
    assert!(!one("accessLog", "false").access_log);
}

#[test]
fn hsts_leads_to_https_unless_somebody_says_otherwise() {
    let on = one("hsts/enabled", "true");
    assert_eq!(on.hsts.as_deref(), Some("max-age=10886400"));
    assert!(on.enforce_https);
    let (all, faults) = of(&[
        ("enforceHTTPS", "false"),
        ("hsts/enabled", "true"),
        ("hsts/includeSubDomains", "true"),
        ("hsts/maxAge", "60"),
        ("hsts/preload", "true"),
    ]);
    assert_eq!(faults, []);
    assert_eq!(
        all.hsts.as_deref(),
        Some("max-age=60; includeSubDomains; preload")
    );
    assert!(!all.enforce_https);
}

#[test]
fn a_bad_value_harms_itself_only() {
    for (name, text) in [
        ("bodySize", "big"),
        ("bodySize", "-1"),
        ("bodySize", "1.5m"),
        ("bodySize", "99999999999999999g"),
        ("bodySize", "m"),
        ("defaultTimeout", "0"),
        ("defaultTimeout", "+5"),
        ("defaultTimeout", "2 weeks"),
        ("builder/timeout/tcp", "10y"),
        ("enforceHTTPS", "yes"),
        ("hsts/maxAge", "-5"),
        ("proxyRealIpCidr", "10.0.0.0/33"),
        ("proxyRealIpCidr", ""),
        ("affinityArg", "a=b"),
        ("sslProtocols", "SSLv3"),
        ("gzip", "on"),
        ("firewall/enabled", "true"),
        ("noSuchThing", "1"),
    ] {
        let (settings, faults) = of(&[(name, text), ("enforceWhitelist", "true")]);
        let want = RouterSettings {
            enforce_whitelist: true,
            ..RouterSettings::default()
        };
        assert_eq!(settings, want, "{name}={text}");
        let names: Vec<&str> = faults.iter().map(|fault| fault.name.as_str()).collect();
        assert_eq!(names, [name], "{text}");
        assert!(check(name, text).is_err(), "{name}={text}");
    }
}

#[test]
fn who_reaches_the_controller() {
    let office: IpAddr = "192.0.2.7".parse().expect("address");
    let other: IpAddr = "192.0.2.8".parse().expect("address");
    for (rows, comes, goes) in [
        (&[][..], vec![office, other], vec![]),
        (
            &[("enforceWhitelist", "true")][..],
            vec![],
            vec![office, other],
        ),
        (
            &[("controller/whitelist", "192.0.2.7:office")][..],
            vec![office],
            vec![other],
        ),
        (
            &[
                ("controller/whitelist", "192.0.2.7"),
                ("enforceWhitelist", "true"),
            ][..],
            vec![office],
            vec![other],
        ),
        // It was set to keep people out.
        (
            &[("controller/whitelist", "office")][..],
            vec![],
            vec![office, other],
        ),
    ] {
        let (settings, _) = of(rows);
        for client in comes {
            assert!(settings.controller_admits(client), "{rows:?}: {client}");
        }
        for client in goes {
            assert!(!settings.controller_admits(client), "{rows:?}: {client}");
        }
    }
}

/// The page that users read names every setting of v1 that there was, and so does the code.
#[test]
fn every_setting_of_v1_is_known_and_told() {
    let page = include_str!("../../docs/router.md");
    let used = "affinityArg bodySize defaultTimeout builder/timeout/connect builder/timeout/tcp \
                controller/timeout/connect controller/timeout/read controller/whitelist enforceHTTPS \
                enforceWhitelist hsts/enabled hsts/maxAge hsts/includeSubDomains hsts/preload \
                sslProtocols proxyProtocol proxyRealIpCidr accessLog";
    let ignored = "controller/timeout/send enableNginxStatus errorLogLevel firewall/enabled \
                   firewall/errorCode gzip gzipCompLevel gzipDisable gzipHttpVersion gzipMinLength \
                   gzipProxied gzipTypes gzipVary maxWorkerConnections workerProcesses \
                   serverNameHashMaxSize serverNameHashBucketSize serverTokens sslCert sslKey \
                   sslDhparam sslCiphers sslSessionCache sslSessionTickets sslSessionTimeout \
                   sslBufferSize trafficStatusZoneSize";
    for name in used.split_whitespace() {
        assert!(page.contains(&format!("`{name}`")), "{name}");
        // An empty value is never right, and the reason names no unknown setting.
        let why = check(name, "").expect_err("empty");
        assert!(!why.contains("no router knows"), "{name}: {why}");
        assert_eq!(meaningless(name), None, "{name}");
    }
    for name in ignored.split_whitespace() {
        assert!(page.contains(&format!("`{name}`")), "{name}");
        assert!(meaningless(name).is_some(), "{name}");
    }
}

proptest! {
    #[test]
    fn no_text_is_too_strange(name in "[a-zA-Z/]{0,20}", text in "\\PC{0,40}") {
        let (settings, faults) = of(&[(&name, &text)]);
        prop_assert_eq!(faults.is_empty(), check(&name, &text).is_ok());
        if !faults.is_empty() {
            // A whitelist apart, nothing has changed.
            prop_assert_eq!(settings.body_size, RouterSettings::default().body_size);
        }
    }

    #[test]
    fn times_and_sizes_are_bounded(digits in "[0-9]{1,25}", unit in "(ms|s|m|h|d|k|g|)") {
        let text = format!("{digits}{unit}");
        if let Some(time) = time(&text, Duration::from_millis(1)) {
            prop_assert!(time <= Duration::from_secs(86_400) && !time.is_zero());
        }
        let _ = size(&text);
    }
}
