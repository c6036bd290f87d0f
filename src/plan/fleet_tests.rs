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
    assert_eq!(metadata, r#"{"disk": {"nvme", "ssd"}, "zone": {"a b"}}"#);
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
            "line 2: MachineMetadata=ssd is not understood: use key=value",
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
