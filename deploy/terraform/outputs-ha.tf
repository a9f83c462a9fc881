output "container_names" {
  description = "Every container of the cluster."
  value       = keys(local.containers)
}

output "proxy_endpoint" {
  description = "Where clients connect."
  value       = "localhost:${var.proxy_port}"
}

output "primary_endpoint" {
  description = "A connection string past the proxy, to whichever member takes writes."
  value       = "${local.direct}&target_session_attrs=read-write"
  sensitive   = true
}

output "replica_endpoints" {
  description = "A connection string past the proxy, to a replica."
  value       = "${local.direct}&target_session_attrs=prefer-standby"
  sensitive   = true
}

output "postgres_password" {
  description = "The administrator's password: terraform output -raw postgres_password."
  value       = local.password["postgres-password"]
  sensitive   = true
}

output "dbhub_url" {
  description = "The UI."
  value       = var.dbhub_enabled ? "http://localhost:${var.dbhub_port}" : null
}

output "ha_network" {
  description = "The cluster's own network."
  value       = { name = local.network_name, subnet = var.network_subnet }
}

output "ca_certificate" {
  description = "What clients hold the proxy's certificate against: sslrootcert."
  value       = tls_self_signed_cert.ca.cert_pem
}

output "cluster_info" {
  description = "The cluster in short."
  value = {
    scope        = "pg-ha-cluster"
    members      = local.member_names
    etcd         = local.etcd_names
    proxy_port   = var.proxy_port
    member_ports = { for n, name in local.member_names : name => var.postgres_port_base + n }
    api_ports    = { for n, name in local.member_names : name => var.patroni_api_port_base + n }
    volumes      = local.volumes
  }
}

locals {
  member_hosts = join(",", [for n in range(var.pg_node_count) : "localhost:${var.postgres_port_base + n}"])
  direct       = "postgresql://${var.postgres_user}:${urlencode(local.password["postgres-password"])}@${local.member_hosts}/${var.postgres_db}?sslmode=require"
}
