//! Reading `[X-Fleet]` sections and matching unit names.

use super::fleet::{XFleet, glob};

fn parse(name: &str, text: &str) -> Result<XFleet, String> {
    XFleet::parse(&name.parse().expect("a unit name"), text).map_err(|error| error.to_string())
}

#[test]
fn options() {
    let text = "[Unit]\nConflicts=not-ours.service\n[X-Fleet]\n# a comment\n\
        Conflicts=%p@*.service \"other one.service\"\nMachineMetadata=disk=ssd\n\
        MachineMetadata=\"disk=nvme\" \"zone=a b\"\nMachineOf=%p-data@%i.service\n\
        Replaces=old.service\nMachineID=abc\nSomethingNew=1\n[Install]\nGlobal=true\n";
    let got = parse("deis-router@2.service", text).expect("readable");
    assert_eq!(
        got.conflicts,
        ["deis-router@*.service", "other one.service"]
    );
    assert_eq!(got.machine_of, ["deis-router-data@2.service"]);
    assert_eq!(got.replaces, ["old.service"]);
    assert_eq!(got.machine_id.as_deref(), Some("abc"));
    assert!(!got.global, "another section's");
    let metadata = format!("{:?}", got.metadata);
    assert_eq!(
        metadata,
        r#"{"disk": {Is("nvme"), Is("ssd")}, "zone": {Is("a b")}}"#
    );
    assert!(
        parse("a.service", "[X-Fleet]\nGlobal=true\n")
            .expect("readable")
            .global
    );
}

#[test]
fn what_is_not_understood_is_said() {
    let cases = [
        (
            "[X-Fleet]\nGlobal=perhaps\n",
            "line 2: Global=perhaps is not understood: use true or false",
        ),
        (
            "[X-Fleet]\nMachineMetadata=ssd\n",
            "line 2: MachineMetadata=ssd is not understood: use key=value, or key<5, key<=5, key>5, key>=5, key!=value",
        ),
        (
            "\n[X-Fleet]\nConflicts=\"a\n",
            "line 3: a quote is not closed",
        ),
    ];
    for (text, want) in cases {
        assert_eq!(parse("a.service", text), Err(want.to_owned()), "{text}");
    }
}

#[test]
fn globs() {
    let cases = [
        ("deis-router@*.service", "deis-router@1.service", true),
        ("deis-router@*.service", "deis-routers@1.service", false),
        ("*", "", true),
        ("", "", true),
        ("", "a", false),
        ("a*b*c", "axxbyybzc", true),
        ("a*b*c", "axxbyybz", false),
        ("?.service", "a.service", true),
        ("?.service", ".service", false),
        ("x[1-3].service", "x2.service", true),
        ("x[!1-3].service", "x2.service", false),
        ("x[]].service", "x].service", true),
        ("x[1", "x1", false),
        ("a\\*", "a*", true),
        ("a\\*", "ab", false),
    ];
    for (pattern, text, want) in cases {
        assert_eq!(glob(pattern, text), want, "{pattern} against {text}");
    }
    // Linear enough: a pattern can't be used to hold the leader up.
    assert!(!glob(&"*a".repeat(40), &"a".repeat(39)));
}

#[test]
fn older_names_and_all_specifiers() {
    let text = "[X-Fleet]\nX-ConditionMachineID=abc\nMachineID=def\nX-ConditionMachineOf=%p.socket %N.timer\n\
        X-ConditionMachineMetadata=name=%i\nX-Conflicts=%p@*.service\nReplaces=%n\nGlobal=T\nGlobal=Off\n\
        Conflicts=a.service \\\n  b.service\nX-ConditionMachineBootID=5\n";
    let got = parse("web@7.service", text).expect("readable");
    assert_eq!(
        got.machine_id.as_deref(),
        Some("abc"),
        "the first one counts"
    );
    assert_eq!(got.boot_id.as_deref(), Some("5"));
    assert_eq!(got.machine_of, ["web.socket", "web@7.timer"]);
    assert_eq!(got.conflicts, ["web@*.service", "a.service", "b.service"]);
    assert_eq!(got.replaces, ["web@7.service"]);
    assert!(!got.global, "the last one counts");
    assert_eq!(format!("{:?}", got.metadata), r#"{"name": {Is("7")}}"#);
}

#[test]
fn metadata_compares_numbers_as_fleet_did() {
    let cases = [
        ("ram>=1024", "1024", true),
        ("ram>=1024", "512", false),
        ("ram<1024", "512", true),
        ("ram<=512", "512", true),
        ("ram>512", "512", false),
        ("ram>512", "plenty", false),
        ("zone!=b", "a", true),
        ("zone!=b", "b", false),
        ("zone==b", "b", true),
    ];
    for (wish, value, want) in cases {
        let options = parse(
            "a.service",
            &format!("[X-Fleet]\nMachineMetadata=\"{wish}\"\n"),
        );
        let metadata = options.expect("readable").metadata;
        let (_, wishes) = metadata.first_key_value().expect("one");
        assert_eq!(
            wishes.iter().any(|wish| wish.is_met(value)),
            want,
            "{wish} of {value}"
        );
    }
    for bad in ["ram>=much", "=a", "a=", "ram", "a!b", "ram<"] {
        assert!(
            parse("a.service", &format!("[X-Fleet]\nMachineMetadata={bad}\n")).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn a_new_unit_is_checked_as_fleet_did() {
    let cases = [
        ("Global=true\nConflicts=a*", Ok(())),
        ("MachineID=a\nConflicts=b.service", Ok(())),
        (
            "Global=true\nMachineOf=a.service",
            Err("Global and MachineOf can't both be met"),
        ),
        (
            "Global=true\nReplaces=a.service",
            Err("Global and Replaces"),
        ),
        ("Global=true\nMachineID=a", Err("Global and MachineID")),
        ("MachineID=%i", Ok(())),
        ("MachineOf=a.1.service\nConflicts=a.*", Err("a.1.service")),
        (
            "Confilcts=a",
            Err("line 2: [X-Fleet] has no option Confilcts"),
        ),
    ];
    for (options, want) in cases {
        let text = format!("[X-Fleet]\n{options}\n");
        let got = XFleet::check(&"x.service".parse().expect("name"), &text);
        match (got, want) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(want)) => {
                assert!(error.to_string().contains(want), "{options}: {error}")
            }
            (got, want) => panic!("{options}: {got:?}, not {want:?}"),
        }
    }
}
