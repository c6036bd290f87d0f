//! What goes wrong, and what users are told then.

use std::{net::TcpListener, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::User;

#[tokio::test]
async fn wrong_command_lines() {
    let user = User::new().await;
    insta::assert_snapshot!(user.fails(&["config:sett", "A=1"]).await, @r"
    Error: config:sett is no command. Did you mean config:set?
    `deis help` lists what there is.
    ");
    let spaced = user.fails(&["config", "sett", "A=1"]).await;
    assert!(spaced.contains("Did you mean config:set?"), "{spaced}");
    insta::assert_snapshot!(user.fails(&["xyzzy"]).await, @r"
    Error: xyzzy is no command.
    `deis help` lists what there is.
    ");
    insta::assert_snapshot!(user.fails(&["perms:create"]).await, @r"
    Error: the following required arguments were not provided:
      <USER>

    Usage: deis perms:create <USER>

    For more information, try '--help'.
    ");
    let text = user.fails(&["apps", "--nope"]).await;
    assert!(
        text.starts_with("Error: unexpected argument '--nope' found"),
        "{text}"
    );
    let text = user.fails(&["rollback", "vx"]).await;
    assert!(
        text.contains("\"vx\" is no release; write it as v2"),
        "{text}"
    );
    let text = user.fails(&[]).await;
    assert!(text.contains("Usage: deis <command>"), "{text}");
}

#[tokio::test]
async fn no_controller_there() {
    let user = User::new().await;
    let text = user.fails(&["login", "ftp://x"]).await;
    assert!(text.contains("is no URL of a controller"), "{text}");
    // A port where nobody listens: the listener is gone before it is used.
    let closed = TcpListener::bind("127.0.0.1:0")
        .expect("bind")
        .local_addr()
        .expect("address");
    let text = user.fails(&["login", &closed.to_string()]).await;
    let want = format!(
        "Error: can't reach the controller at http://{closed}: Connection refused (os error 111). \
         Is the address right and the platform up?\n"
    );
    assert_eq!(text, want);
    // Something answers, but no controller.
    let other = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    let text = user.fails(&["login", &other]).await;
    let want = format!(
        "Error: http://{other} does not appear to be a valid Deis controller.\n\
         Make sure that the Controller URI is correct and the server is running.\n"
    );
    assert_eq!(text, want);
}

#[tokio::test]
async fn another_version_of_the_api() {
    let user = User::new().await;
    let answer = "HTTP/1.1 401 UNAUTHORIZED\r\nDEIS_API_VERSION: 2.3\r\ncontent-length: 0\r\n\r\n";
    let other = answering(answer).await;
    let text = user
        .fails(&["login", &other, "--username=a", "--password=b"])
        .await;
    assert!(
        text.ends_with(
            "Warning: the controller speaks version 2.3 of the API and this program 1.7; install the one that fits\n"
        ),
        "{text}"
    );
}

/// A server that gives one answer to whatever it is asked; its address.
async fn answering(answer: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for() {
    let pem = include_bytes!("self-signed.pem");
    let chain = vec![CertificateDer::from_pem_slice(pem).expect("certificate")];
    let key = PrivateKeyDer::from_pem_slice(pem).expect("key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("config");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok(mut socket) = acceptor.accept(socket).await {
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let answer = "HTTP/1.1 404 NOT FOUND\r\ncontent-length: 0\r\n\r\n";
                let _ = socket.write_all(answer.as_bytes()).await;
                let _ = socket.shutdown().await;
            }
        }
    });
    let user = User::new().await;
    let url = format!("https://{address}");
    let text = user.fails(&["login", &url]).await;
    assert!(
        text.starts_with(&format!(
            "Error: the certificate of {url} is not to be trusted: "
        )),
        "{text}"
    );
    assert!(
        text.ends_with(&format!("deis login {url} --ssl-verify=false\n")),
        "{text}"
    );
    let text = user.fails(&["login", &url, "--ssl-verify=false"]).await;
    assert!(
        text.contains("does not appear to be a valid Deis controller"),
        "{text}"
    );
}

#[tokio::test]
async fn logins() {
    let mut user = User::with_app().await;
    let profile = user.home.path().join(".deis/client.json");
    let saved = std::fs::read_to_string(&profile).expect("profile");
    let mut json: serde_json::Value = serde_json::from_str(&saved).expect("json");
    json["token"] = "0".repeat(40).into();
    std::fs::write(&profile, json.to_string()).expect("write");
    insta::assert_snapshot!(user.fails(&["apps"]).await, @r"
    Error: 401 UNAUTHORIZED
    detail: Invalid token
    Hint: your login has ended; log in again: deis login http://[controller]
    ");
    let (code, out, err) = user.both(&["apps", "--output=json"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    let err: serde_json::Value = serde_json::from_str(&err).expect("one object");
    assert_eq!(err["status"], 401);
    assert_eq!(err["error"], "401 UNAUTHORIZED\ndetail: Invalid token");
    assert_eq!(err["body"]["detail"], "Invalid token");
    assert!(err["hint"].as_str().expect("hint").contains("deis login"));

    std::fs::write(&profile, "{").expect("write");
    let text = user.fails(&["apps"]).await;
    assert!(
        text.starts_with(
            "Error: [home]/.deis/client.json is damaged; log in again with 'deis login': "
        ),
        "{text}"
    );

    user.env.profile = "work".into();
    assert_eq!(
        user.fails(&["apps"]).await,
        "Error: Not logged in. Use 'deis login' or 'deis register' to get started.\n"
    );
    user.env.profile = "../work".into();
    let text = user.fails(&["apps"]).await;
    assert!(
        text.starts_with("Error: $DEIS_PROFILE is \"../work\""),
        "{text}"
    );
}

#[tokio::test]
async fn profiles_beside_each_other() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut user = User::with_app().await;
    // As v1's client left it: open to all.
    let folder = user.home.path().join(".deis");
    let work = folder.join("work.json");
    std::fs::write(
        &work,
        r#"{"username":"x","controller":"http://x","token":"","kept":1}"#,
    )
    .expect("write");
    std::fs::set_permissions(&work, std::fs::Permissions::from_mode(0o775)).expect("mode");
    user.env.profile = "work".into();
    let login = [
        "login",
        &user.controller(),
        "--username=ada",
        "--password=x",
    ];
    assert_eq!(user.ok(&login).await, "Logged in as ada\n");
    let mode = work.metadata().expect("profile").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&work).expect("profile");
    assert!(text.contains(r#""kept":1"#), "{text}");
    assert_eq!(std::fs::read_dir(&folder).expect("folder").count(), 2);
    user.ok(&["logout"]).await;
    user.env.profile = "client".into();
    assert_eq!(user.ok(&["apps"]).await, "=== Apps\nblog\n");
}

#[tokio::test]
async fn which_app_is_meant() {
    let user = User::with_app().await;
    super::git(&user.env.cwd, &["remote", "remove", "deis"]);
    insta::assert_snapshot!(user.fails(&["ps"]).await, @r"
    Error: 404 NOT FOUND
    detail: Not found
    Hint: no git remote here leads to 127.0.0.1, so this directory's name, work, was taken for the app's; name the app with --app
    ");
    assert_eq!(user.ok(&["ps", "-a", "blog"]).await, "=== blog Processes\n");
    assert_eq!(
        user.ok(&["git:remote", "-a", "blog", "-r", "prod"]).await,
        "Git remote prod added\n"
    );
    assert_eq!(user.ok(&["ps"]).await, "=== blog Processes\n");
    let text = user
        .fails(&["git:remote", "-a", "shop", "-r", "prod"])
        .await;
    assert!(
        text.contains("git remote set-url prod ssh://git@127.0.0.1:2222/shop.git"),
        "{text}"
    );
    let text = user.fails(&["info", "--app=../x"]).await;
    assert!(text.starts_with("Error: \"../x\" is no app: "), "{text}");
}
