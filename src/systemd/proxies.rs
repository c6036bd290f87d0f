//! The members of org.freedesktop.systemd1 that we use.

use zbus::{Connection, OwnedObjectPath, OwnedVariant};

/// systemd's D-Bus name.
pub const SERVICE: &str = "org.freedesktop.systemd1";
/// Path of the manager object.
pub const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
/// Beginning of every unit's path.
pub const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit";
/// The manager's interface.
pub const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// The interface of all units.
pub const UNIT: &str = "org.freedesktop.systemd1.Unit";
/// The interface of services.
pub const SERVICE_UNIT: &str = "org.freedesktop.systemd1.Service";
/// The standard interface of properties.
pub const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Name, description, load state, active state, sub state, the unit that it follows, its path, and the
/// job that it has: id, kind, path.
pub type ListedUnit = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// systemd itself.
#[zbus::proxy(
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    interface = "org.freedesktop.systemd1.Manager"
)]
pub trait Manager {
    /// Has systemd send signals to us.
    fn subscribe(&self) -> zbus::Result<()>;
    /// Starts a unit; the job's path.
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    /// Stops a unit; the job's path.
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    /// The path of a unit that is loaded.
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    /// What is known of units, loaded or not.
    fn list_units_by_names(&self, names: &[&str]) -> zbus::Result<Vec<ListedUnit>>;
    /// Forgets that a unit has failed.
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    /// Reads all unit files again.
    fn reload(&self) -> zbus::Result<()>;
    /// Reads a unit's file if it is not loaded; its path.
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    /// Does what `[Install]` sections say; whether there were any, and the links that were made.
    #[allow(clippy::type_complexity, reason = "it is the bus's own type")]
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    /// Takes that back; the links that were removed.
    fn disable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
    ) -> zbus::Result<Vec<(String, String, String)>>;
}

/// Reads one property of an object; none when it is of another type.
///
/// # Errors
/// When the bus or systemd refuses.
pub async fn property<T: TryFrom<OwnedVariant>>(
    connection: &Connection,
    path: &str,
    interface: &str,
    name: &str,
) -> zbus::Result<Option<T>> {
    let body = (interface, name);
    let call = connection.call_method(Some(SERVICE), path, Some(PROPERTIES), "Get", &body);
    let value = call.await?.body().deserialize::<OwnedVariant>().ok();
    Ok(value.and_then(|value| T::try_from(value).ok()))
}

/// Object path of a unit: every byte but letters and digits (and a digit in front) as `_xx`.
pub fn unit_path(unit: &str) -> String {
    let mut path = format!("{UNIT_PATH}/");
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            path.push(byte as char);
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

/// Name of the unit at an object path.
pub fn unit_of_path(path: &str) -> Option<String> {
    let mut bytes = path.strip_prefix(UNIT_PATH)?.strip_prefix('/')?.bytes();
    let mut name = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte == b'_' {
            let digits = [bytes.next()?, bytes.next()?];
            name.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            name.push(byte);
        }
    }
    String::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_systemd_spells_it() {
        assert_eq!(
            unit_path("dbus.service"),
            "/org/freedesktop/systemd1/unit/dbus_2eservice"
        );
        assert_eq!(
            unit_path("4b_v7.web.1.service"),
            "/org/freedesktop/systemd1/unit/_34b_5fv7_2eweb_2e1_2eservice"
        );
    }

    proptest! {
        #[test]
        fn there_and_back(name in "[a-z0-9@:._-]{1,40}") {
            prop_assert_eq!(unit_of_path(&unit_path(&name)), Some(name));
        }
    }
}
