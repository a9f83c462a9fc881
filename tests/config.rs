//! A wrong proxy.toml, as a person meets it: one clear line with file, line and key, and exit code 1.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::Path;
use std::process::{Command, Output};

fn check(folder: &Path, text: &str) -> Output {
    std::fs::write(folder.join("proxy.toml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pg-ha-proxy"));
    command.args(["check", "--config", "proxy.toml"]).current_dir(folder).output().unwrap()
}

#[test]
fn wrong_files_get_one_line_and_exit_1() {
    let folder = tempfile::tempdir().unwrap();
    for (text, line) in [
        (
            "[pool]\n\nsise = 3\n",
            "pg-ha-proxy: proxy.toml:3: pool.sise: unknown key; did you mean pool.size?\n",
        ),
        (
            "[pool]\nsize = \"3\"\n",
            "pg-ha-proxy: proxy.toml:2: pool.size: expected a whole number, found a string\n",
        ),
        (
            "# no such file\n[tls]\ncertificate = \"no.crt\"\nkey = \"no.key\"\n",
            "pg-ha-proxy: proxy.toml:3: tls.certificate: no.crt can't be read: No such file or directory (os error 2)\n",
        ),
        (
            "[failover]\nhold = \"forever\"\n",
            "pg-ha-proxy: proxy.toml:2: failover.hold: expected a duration with its unit, such as \"20ms\", \"5s\" or \
             \"10min\"\n",
        ),
    ] {
        let output = check(folder.path(), text);
        assert_eq!(String::from_utf8_lossy(&output.stderr), line);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{text}");
    }
    let output = check(folder.path(), "[pool\n");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.starts_with("pg-ha-proxy: proxy.toml:1: not TOML: ") && message.lines().count() == 1,
        "{message}"
    );
}

#[test]
fn every_section_answers_in_the_same_way() {
    let folder = tempfile::tempdir().unwrap();
    for section in [
        "listen", "tls", "topology", "auth", "pool", "routing", "vector", "failover", "limits", "admin",
        "log",
    ] {
        let output = check(folder.path(), &format!("[{section}]\nxyzzy = 1\n"));
        let message = String::from_utf8_lossy(&output.stderr);
        let expected =
            format!("pg-ha-proxy: proxy.toml:2: {section}.xyzzy: unknown key; did you mean {section}.");
        assert!(message.starts_with(&expected), "{message}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn the_shipped_file_is_good() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml");
    let folder = tempfile::tempdir().unwrap();
    let output = check(folder.path(), &std::fs::read_to_string(shipped).unwrap());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for subcommand in ["check", "run"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pg-ha-proxy"));
        let output =
            command.args([subcommand, "--config", "none.toml"]).current_dir(folder.path()).output().unwrap();
        let expected = "pg-ha-proxy: none.toml: can't be read: No such file or directory (os error 2)\n";
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
        assert_eq!(output.status.code(), Some(1));
    }
}
