//! What the cluster has in its databases from the start: the proxy's roles, extensions, and the application's role
//! and database.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::member::Place;
use super::patroni::SUPERUSER;
use super::{Error, Runtime, Secret};

/// The roles and the function that the proxy needs, as SQL that can be run again at any time.
pub const ROLES_SQL: &str = include_str!("roles.sql");

/// Runs all of it on the primary. Everything in it can be run again.
pub(super) async fn run(runtime: &Runtime, place: &Place, app: &str, password: &Secret) -> Result<(), Error> {
    let extensions =
        "CREATE EXTENSION IF NOT EXISTS vector; CREATE EXTENSION IF NOT EXISTS pg_stat_statements;\n";
    let script = format!(
        "{ROLES_SQL}\n{extensions}{}\n\\connect {app}\nSET client_min_messages = warning;\n{extensions}",
        app_sql(app, password)
    );
    psql(runtime, place, &script).await
}

/// The application's role and database. `app` is a plain name, as the options are checked for.
fn app_sql(app: &str, password: &Secret) -> String {
    let literal = password.reveal().replace('\'', "''");
    format!(
        "SET standard_conforming_strings = on;\n\
         SELECT 'CREATE ROLE {app} LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{app}') \\gexec\n\
         ALTER ROLE {app} LOGIN PASSWORD '{literal}';\n\
         SELECT 'CREATE DATABASE {app} OWNER {app}'\n\
          WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{app}') \\gexec\n"
    )
}

async fn psql(runtime: &Runtime, place: &Place, script: &str) -> Result<(), Error> {
    let mut command = Command::new(runtime.postgres_bin().join("psql"));
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", SUPERUSER, "-d", "postgres", "-p"]);
    command.arg(place.postgres_port.to_string()).arg("-h").arg(&place.socket_dir).args(["-f", "-"]);
    command.env_clear().env("LANG", "C.UTF-8").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(Error::io("psql"))?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(script.as_bytes()).await.map_err(Error::io("psql"))?;
    }
    let output = child.wait_with_output().await.map_err(Error::io("psql"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find(|line| line.contains("ERROR") || line.contains("FATAL"));
    let line = line.or(said.lines().next()).unwrap_or("no message").to_owned();
    Err(Error::Program { program: "psql", output: line })
}
