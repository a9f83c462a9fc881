# Certificates and passwords, the same files as make-secrets makes for Compose. They stand in Terraform's state: keep it
# where only those who run the cluster can read it.
locals {
  chosen = {
    postgres-password    = var.postgres_password
    replication-password = var.replication_password
  }

  etcd_endpoints = jsonencode([for name in local.etcd_names : "https://${name}:${var.etcd_port}"])

  secrets = merge(
    { for name in local.passwords : name => "${local.password[name]}\n" },
    { for name in keys(local.certificates) : "${name}.pem" => join("", [
      tls_locally_signed_cert.issued[name].cert_pem, tls_private_key.issued[name].private_key_pem_pkcs8,
    ]) },
    {
      "ca.crt"     = tls_self_signed_cert.ca.cert_pem
      "dbhub-url"  = "postgresql://dbhub:${local.password["dbhub-password"]}@proxy:6432/dbhub?sslmode=require\n"
      "proxy.toml" = replace(file("${path.module}/../proxy/proxy.toml"), "/etcd_endpoints = [^\n]*/", "etcd_endpoints = ${local.etcd_endpoints}")
    },
  )
  password = { for name in local.passwords : name => lookup(local.chosen, name, "") != "" ? local.chosen[name] : random_password.made[name].result }
}

resource "random_password" "made" {
  for_each = local.passwords

  length  = 40
  special = false
}

resource "tls_private_key" "ca" {
  algorithm   = "ECDSA"
  ecdsa_curve = "P256"
}

resource "tls_self_signed_cert" "ca" {
  private_key_pem       = tls_private_key.ca.private_key_pem
  is_ca_certificate     = true
  validity_period_hours = 24 * 3650
  allowed_uses          = ["cert_signing", "crl_signing"]

  subject {
    common_name = "pg-ha-cluster CA"
  }
}

resource "tls_private_key" "issued" {
  for_each = local.certificates

  algorithm   = "ECDSA"
  ecdsa_curve = "P256"
}

resource "tls_cert_request" "issued" {
  for_each = local.certificates

  private_key_pem = tls_private_key.issued[each.key].private_key_pem
  dns_names       = each.value.names
  ip_addresses    = length(each.value.names) > 0 ? ["127.0.0.1"] : []

  subject {
    organization        = "pg-ha-cluster"
    organizational_unit = each.key
    common_name         = contains(local.nameless, each.key) ? null : each.key
  }
}

resource "tls_locally_signed_cert" "issued" {
  for_each = local.certificates

  cert_request_pem      = tls_cert_request.issued[each.key].cert_request_pem
  ca_private_key_pem    = tls_private_key.ca.private_key_pem
  ca_cert_pem           = tls_self_signed_cert.ca.cert_pem
  validity_period_hours = 24 * 825
  early_renewal_hours   = 24 * 60
  allowed_uses          = concat(["digital_signature"], each.value.uses)
}
