variable "postgres_user" {
  description = "The administrator that clients log in as, a superuser."
  type        = string
  default     = "pgadmin"
}

variable "postgres_password" {
  description = "Its password; empty: one is generated, shown by `terraform output -raw postgres_password`."
  type        = string
  default     = ""
  sensitive   = true
}

variable "postgres_db" {
  description = "The database that the administrator owns."
  type        = string
  default     = "postgres"
}

variable "replication_password" {
  description = "The password by which members replicate; empty: one is generated."
  type        = string
  default     = ""
  sensitive   = true
}

variable "proxy_port" {
  description = "Port of the proxy on this host."
  type        = number
  default     = 6432
}

variable "proxy_names" {
  description = "What clients call the proxy besides localhost, for its certificate."
  type        = list(string)
  default     = []
}

variable "dbhub_port" {
  description = "Port of the UI on this host, on the loopback address."
  type        = number
  default     = 9090
}

variable "dbhub_enabled" {
  description = "Whether the UI runs; false where its image can't be had."
  type        = bool
  default     = true
}

variable "etcd_port" {
  description = "Port of etcd for clients, in the cluster's network alone."
  type        = number
  default     = 2379
}

variable "etcd_peer_port" {
  description = "Port of etcd for its peers, in the cluster's network alone."
  type        = number
  default     = 2380
}

variable "postgres_port_base" {
  description = "Port of the first member on this host, the others follow."
  type        = number
  default     = 5432
}

variable "patroni_api_port_base" {
  description = "Port of the first member's Patroni on this host, the others follow."
  type        = number
  default     = 8008
}

variable "member_bind" {
  description = "Address of this host on which the members, their Patroni and the UI listen."
  type        = string
  default     = "127.0.0.1"
}

variable "pg_node_count" {
  description = "Members of the cluster."
  type        = number
  default     = 3

  validation {
    condition     = var.pg_node_count >= 2 && var.pg_node_count <= 9
    error_message = "Between 2 and 9 members: with one alone nothing can take over."
  }
}

variable "etcd_count" {
  description = "Members of etcd: 3, or 1 for a trial, whose loss leaves the cluster without failover."
  type        = number
  default     = 3

  validation {
    condition     = contains([1, 3, 5], var.etcd_count)
    error_message = "1, 3 or 5: an even number tolerates no more than the odd one below it."
  }
}

variable "network_subnet" {
  description = "The cluster's own network; pg_hba.conf lets members and the proxy in from there."
  type        = string
  default     = "172.20.0.0/16"
}

variable "postgres_patroni_image" {
  description = "Image of the members, built from Dockerfile.patroni."
  type        = string
  default     = "postgres-patroni:18-pgvector"
}

variable "postgres_base_image" {
  description = "What the members' image is built on. pgvector up to 0.8.1 has CVE-2026-3172."
  type        = string
  default     = "pgvector/pgvector:0.8.7-pg18-trixie"
}

variable "proxy_image" {
  description = "Image of the proxy, built from Dockerfile."
  type        = string
  default     = "pg-ha-proxy:0.1"
}

variable "etcd_image" {
  description = "Image of etcd; 3.5.0 to 3.5.2 can corrupt data."
  type        = string
  default     = "gcr.io/etcd-development/etcd:v3.6.14"
}

variable "dbhub_image" {
  description = "Image of Bytebase."
  type        = string
  default     = "bytebase/bytebase:3.11.0"
}

variable "sample_data" {
  description = "Whether a new cluster gets the table of sample embeddings."
  type        = bool
  default     = true
}

variable "backup_full_every" {
  description = "Age of the last full backup at which the next is made, such as 7d or 36h."
  type        = string
  default     = "7d"
}

variable "backup_diff_every" {
  description = "Age of the last backup of any kind at which a differential one is made."
  type        = string
  default     = "1d"
}
