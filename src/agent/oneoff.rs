//! One-off processes (`deis run`): how they end, and how whoever waits gets to know.
//!
//! On the wire: one JSON line `{"token":…,"exit_code":…,"output_bytes":…}`, then that many bytes of
//! output; the receiver closes.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};
use uuid::Uuid;

use super::paths::{Durability, Paths, write_atomic};
use crate::{model::ProcessName, render::RunFiles};

/// The most output that is sent, in bytes.
pub const OUTPUT_MAX: u64 = 8 << 20;
/// How long a report may take.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// Exit code of a one-off whose end nobody saw.
const LOST: i32 = 255;

/// The first line of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What proves that the report is for this request.
    pub token: String,
    /// The command's exit code; 128 + N when signal N ended it.
    pub exit_code: i32,
    /// How many bytes of output follow.
    pub output_bytes: u64,
}

/// How a one-off ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its exit code.
    pub exit_code: i32,
    /// What to say after its output.
    pub remark: Option<String>,
}

/// Reads what the unit's ExecStopPost= wrote: `$EXIT_CODE $EXIT_STATUS $SERVICE_RESULT`.
#[must_use]
pub fn parse_end(text: &str) -> Option<End> {
    let mut words = text.split_whitespace();
    let (code, status, result) = (words.next()?, words.next()?, words.next()?);
    let exit_code = match code {
        "exited" => status.parse().ok()?,
        // systemd names signals: KILL, TERM, ...
        _ => 128 + signal_number(status),
    };
    let remark = (result == "oom-kill").then(|| "killed: out of memory".to_owned());
    Some(End { exit_code, remark })
}

fn signal_number(name: &str) -> i32 {
    match name.trim_start_matches("SIG") {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ABRT" => 6,
        "SEGV" => 11,
        "PIPE" => 13,
        "TERM" => 15,
        _ => 9,
    }
}

/// How a one-off ended, as far as the host knows.
#[must_use]
pub fn end_of(paths: &Paths, name: &ProcessName) -> End {
    let read = std::fs::read_to_string(paths.at(&RunFiles::of(name).exit)).ok();
    read.and_then(|text| parse_end(&text))
        .unwrap_or_else(|| End {
            exit_code: LOST,
            remark: Some("the host went down while it ran; it was not started again".into()),
        })
}

/// Marks a one-off as started, so that no reboot starts it twice. `false`: it was marked already.
///
/// # Errors
/// When the disk refuses; it must not be started then.
pub fn mark_started(paths: &Paths, uuid: Uuid) -> io::Result<bool> {
    let mark = paths.started_runs().join(uuid.to_string());
    if mark.exists() {
        return Ok(false);
    }
    write_atomic(&mark, b"", 0o600, Durability::Disk)?;
    Ok(true)
}

/// Sends output and exit code to whoever waits at `attach`.
///
/// # Errors
/// When nobody takes it.
pub async fn report(
    paths: &Paths,
    name: &ProcessName,
    attach: &str,
    token: &str,
) -> io::Result<i32> {
    let end = end_of(paths, name);
    let output = paths.at(&RunFiles::of(name).output);
    let work = async {
        let mut stream = TcpStream::connect(attach).await?;
        let (file, cut) = open_output(&output)?;
        let size = file.as_ref().map_or(0, |(_, size)| *size);
        let mut tail = String::new();
        if let Some(total) = cut {
            tail.push_str(&format!(
                "\n[deis: output cut, these are the last {size} of {total} bytes]\n"
            ));
        }
        if let Some(remark) = &end.remark {
            tail.push_str(&format!("\n[deis: {remark}]\n"));
        }
        let header = Header {
            token: token.to_owned(),
            exit_code: end.exit_code,
            output_bytes: size + tail.len() as u64,
        };
        let mut line = serde_json::to_vec(&header).map_err(io::Error::other)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        if let Some((file, size)) = file {
            let mut file = tokio::fs::File::from_std(file).take(size);
            tokio::io::copy(&mut file, &mut stream).await?;
        }
        stream.write_all(tail.as_bytes()).await?;
        stream.shutdown().await?;
        // Done only when the other side has closed too: it has read everything.
        let mut rest = [0; 64];
        while stream.read(&mut rest).await? > 0 {}
        Ok(end.exit_code)
    };
    time::timeout(SEND_LIMIT, work).await.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{attach} does not take the report"),
        ))
    })
}

/// A file, positioned, and how many bytes of it to send.
type Part = Option<(File, u64)>;

/// Opens the output at what is to be sent: the whole, or its end. Says the whole size if it was cut.
fn open_output(path: &Path) -> io::Result<(Part, Option<u64>)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, None)),
        Err(error) => return Err(error),
    };
    let total = file.metadata()?.len();
    if total <= OUTPUT_MAX {
        return Ok((Some((file, total)), None));
    }
    file.seek(SeekFrom::Start(total - OUTPUT_MAX))?;
    // Not in the middle of a character.
    let mut skipped = 0;
    let mut byte = [0];
    while skipped < 3 && file.read(&mut byte)? == 1 && byte[0] & 0xc0 == 0x80 {
        skipped += 1;
    }
    file.seek(SeekFrom::Start(total - OUTPUT_MAX + skipped))?;
    Ok((Some((file, OUTPUT_MAX - skipped)), Some(total)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::unit::RUN_DIR;

    #[test]
    fn ends() {
        let cases = [
            ("exited 0 success\n", 0, None),
            ("exited 3 exit-code\n", 3, None),
            ("killed TERM signal\n", 143, None),
            (
                "exited 137 oom-kill\n",
                137,
                Some("killed: out of memory".to_owned()),
            ),
        ];
        for (text, exit_code, remark) in cases {
            assert_eq!(parse_end(text), Some(End { exit_code, remark }), "{text}");
        }
        assert_eq!(parse_end(""), None);
    }

    async fn sent(output: &[u8]) -> (Header, Vec<u8>) {
        let dir = tempfile::tempdir().expect("dir");
        let paths = Paths::below(dir.path());
        paths.prepare().expect("folders");
        let name: ProcessName = "blog_v7.run.1".parse().expect("name");
        std::fs::write(paths.at(&format!("{RUN_DIR}/{name}.out")), output).expect("written");
        std::fs::write(
            paths.at(&format!("{RUN_DIR}/{name}.exit")),
            "exited 3 exit-code\n",
        )
        .expect("written");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bound");
        let attach = listener.local_addr().expect("address").to_string();
        let taken = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.expect("read");
            all
        });
        assert_eq!(
            report(&paths, &name, &attach, "t0ken").await.expect("sent"),
            3
        );
        let all = taken.await.expect("taken");
        let end = all.iter().position(|b| *b == b'\n').expect("a line");
        (
            serde_json::from_slice(&all[..end]).expect("a header"),
            all[end + 1..].to_vec(),
        )
    }

    #[tokio::test]
    async fn output_and_exit_code_arrive() {
        let (header, output) = sent("ü\nout\n".as_bytes()).await;
        assert_eq!(
            header,
            Header {
                token: "t0ken".into(),
                exit_code: 3,
                output_bytes: 7
            }
        );
        assert_eq!(output, "ü\nout\n".as_bytes());
    }

    #[tokio::test]
    async fn long_output_is_cut_and_says_so() {
        let (header, output) =
            sent(&vec![b'x'; usize::try_from(OUTPUT_MAX).expect("fits") + 10]).await;
        assert_eq!(header.output_bytes, output.len() as u64);
        let tail = String::from_utf8_lossy(&output[output.len() - 80..]).into_owned();
        assert!(
            tail.contains(&format!("of {} bytes", OUTPUT_MAX + 10)),
            "{tail}"
        );
    }

    #[test]
    fn nothing_starts_twice() {
        let dir = tempfile::tempdir().expect("dir");
        let paths = Paths::below(dir.path());
        paths.prepare().expect("folders");
        assert!(mark_started(&paths, Uuid::from_u128(1)).expect("marked"));
        assert!(!mark_started(&paths, Uuid::from_u128(1)).expect("marked"));
    }
}
