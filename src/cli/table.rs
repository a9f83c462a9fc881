//! JSON rows as columns for the terminal.

use serde_json::Value;

/// Rows of objects as a table with a heading; the columns are the keys of the first row. An object that holds nothing but
/// one list is as good as that list; anything else is shown as it is.
pub(super) fn table(rows: &Value) -> String {
    let only = rows.as_object().filter(|fields| fields.len() == 1).and_then(|fields| fields.values().next());
    let rows = match only.filter(|value| value.is_array()).unwrap_or(rows) {
        Value::Array(rows) => rows.as_slice(),
        one => std::slice::from_ref(one),
    };
    let Some(first) = rows.first().and_then(Value::as_object) else {
        return rows.iter().map(|row| plain(row) + "\n").collect();
    };
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    let mut lines: Vec<Vec<String>> =
        vec![names.iter().map(|name| name.to_uppercase().replace('_', " ")).collect()];
    for row in rows {
        lines.push(names.iter().map(|name| row.get(name).map(plain).unwrap_or_default()).collect());
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// One value in a cell. Control characters are shown as `?`: the terminal must not obey them.
fn plain(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::Bool(flag) => (if *flag { "yes" } else { "no" }).to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::table;

    #[test]
    fn columns_are_aligned() {
        let rows = json!([{ "member": "pg-node-1", "serves_reads": true }, { "member": "é\u{1b}[2J", "serves_reads": null }]);
        assert_eq!(table(&rows), "MEMBER     SERVES READS\npg-node-1  yes\né?[2J\n");
        assert_eq!(table(&json!([])), "");
        assert_eq!(table(&json!({ "pools": [{ "idle": 3 }] })), "IDLE\n3\n");
        assert_eq!(table(&json!({ "transitions": ["one", "two"] })), "one\ntwo\n");
        assert_eq!(table(&json!({ "sessions": 3 })), "SESSIONS\n3\n");
    }
}
