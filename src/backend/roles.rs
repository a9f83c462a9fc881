//! Reading a role's verifier on a connection of the lookup role.
//!
//! The role may run one function and nothing else (`pgha.verifier`); a user's name goes there by Parse and Bind only.

use super::query::{QueryError, Row, SimpleClient};
use crate::scram::{Role, Unusable, Verifier};

const SQL: &str = "SELECT name, verifier, can_login, valid_until, connection_limit, is_superuser, is_replication \
                   FROM pgha.verifier($1)";

/// What a server says of a role; none when there is no such role.
///
/// # Errors
/// [`QueryError`], also when the function gives something else than one role.
pub async fn read_role(client: &mut SimpleClient, user: &str) -> Result<Option<Role>, QueryError> {
    match client.query_params(SQL, &[user]).await?.as_slice() {
        [] => Ok(None),
        [row] => role(row).map(Some).ok_or(QueryError::Protocol("pgha.verifier gave a row of another shape")),
        _ => Err(QueryError::Protocol("pgha.verifier gave more than one row")),
    }
}

fn role(row: &Row) -> Option<Role> {
    let [_name, verifier, can_login, valid_until, connection_limit, superuser, replication] = row.as_slice()
    else {
        return None;
    };
    let boolean = |value: &Option<String>| match value.as_deref()? {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    };
    Some(Role {
        verifier: match verifier {
            None => Err(Unusable::NoPassword),
            Some(text) => Verifier::parse(text).map_err(Unusable::from),
        },
        can_login: boolean(can_login)?,
        valid_until: match valid_until {
            None => f64::INFINITY,
            Some(seconds) => seconds.parse().ok()?,
        },
        // -1 is no limit.
        connection_limit: u32::try_from(connection_limit.as_ref()?.parse::<i32>().ok()?).ok(),
        superuser: boolean(superuser)?,
        replication: boolean(replication)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: [Option<&str>; 7]) -> Row {
        values.map(|value| value.map(str::to_owned)).to_vec()
    }

    #[test]
    fn rows_become_roles() {
        let verifier = Verifier::from_password("x", [1; 16], 1).to_secret_string();
        let read = role(&row([
            Some("a"),
            Some(&verifier),
            Some("t"),
            Some("978307200.5"),
            Some("3"),
            Some("f"),
            Some("t"),
        ]))
        .unwrap();
        assert!(read.verifier.is_ok() && read.can_login && !read.superuser && read.replication);
        assert_eq!((read.valid_until, read.connection_limit), (978_307_200.5, Some(3)));

        let read = role(&row([Some("a"), None, Some("f"), None, Some("-1"), Some("t"), Some("f")])).unwrap();
        assert_eq!(read.verifier.unwrap_err(), Unusable::NoPassword);
        assert_eq!((read.valid_until, read.connection_limit), (f64::INFINITY, None));
        let read =
            role(&row([Some("a"), None, Some("f"), Some("Infinity"), Some("-1"), Some("t"), Some("f")]));
        assert!(read.unwrap().valid_until.is_infinite());
        assert!(role(&row([Some("a"), None, None, None, Some("-1"), Some("t"), Some("f")])).is_none());
        assert!(role(&vec![]).is_none());
    }
}
