variable "name" {
  description = "Prefix of every resource that the module makes. Calls of the module in one account and region need different names."
  type        = string
  default     = "ec2-decommission"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9_-]*$", var.name))
    error_message = "name is ${jsonencode(var.name)}: it must begin with a letter and hold only letters, digits, hyphens and underscores."
  }

  validation {
    condition     = length(var.name) <= 48
    error_message = "name has ${length(var.name)} characters: at most 48 are allowed, as AWS limits the names made from it (the role's, with the region in it) to 64."
  }

  validation {
    condition     = !startswith(lower(var.name), "aws")
    error_message = "name is ${jsonencode(var.name)}: names that begin with \"aws\" are reserved by AWS."
  }
}

variable "vpc_config" {
  description = <<-EOT
    Attaches the function to a VPC, where Chef or Consul can be reached only from within. `null` leaves it outside.

    - `subnet_ids` - The subnets to attach to. They need a route (NAT or endpoints) to the AWS APIs too.
    - `security_group_ids` - The function's security groups. They must let HTTPS out.
  EOT
  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
  })
  default = null

  validation {
    condition     = try(length(var.vpc_config.subnet_ids) > 0, var.vpc_config == null)
    error_message = "vpc_config.subnet_ids is empty: give at least one subnet, or leave vpc_config null to run outside a VPC."
  }

  validation {
    condition     = try(length(var.vpc_config.security_group_ids) > 0, var.vpc_config == null)
    error_message = "vpc_config.security_group_ids is empty: give at least one security group, or leave vpc_config null to run outside a VPC."
  }

  validation {
    condition     = alltrue([for id in try(var.vpc_config.subnet_ids, []) : try(startswith(id, "subnet-"), false)])
    error_message = "vpc_config.subnet_ids holds what is not a subnet id: each must begin with \"subnet-\"."
  }

  validation {
    condition     = alltrue([for id in try(var.vpc_config.security_group_ids, []) : try(startswith(id, "sg-"), false)])
    error_message = "vpc_config.security_group_ids holds what is not a security group id: each must begin with \"sg-\"."
  }
}

variable "dry_run" {
  description = "Find and report, delete nothing. The report lists what a real run would remove."
  type        = bool
  default     = false
  nullable    = false
}

variable "instance_filter" {
  description = <<-EOT
    Which instances are handled at all. Without tags given, all are.

    - `include_tags` - Tag key to allowed values. An instance is handled only if, for every key, its tag has one of the values.
    - `exclude_tags` - Tag key to values. An instance is left alone if, for any key, its tag has one of the values. It goes before `include_tags`.

    In a value, `*` stands for any characters, at any place: `["web-*"]`, and `["*"]` for any value. Nothing else has a meaning of its own, and small and capital letters differ.
  EOT
  type = object({
    include_tags = optional(map(list(string)), {})
    exclude_tags = optional(map(list(string)), {})
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for key, values in var.instance_filter.include_tags : key != "" && length(coalesce(values, [])) > 0])
    error_message = "instance_filter.include_tags has an empty key or a key without values, which no instance could meet: each key needs at least one allowed value."
  }

  validation {
    condition     = alltrue([for key, values in var.instance_filter.exclude_tags : key != "" && length(coalesce(values, [])) > 0])
    error_message = "instance_filter.exclude_tags has an empty key or a key without values, which excludes nothing: each key needs at least one value."
  }

  validation {
    condition = alltrue(flatten([
      for values in concat(values(var.instance_filter.include_tags), values(var.instance_filter.exclude_tags)) : [for value in coalesce(values, []) : value != null]
    ]))
    error_message = "instance_filter holds null among the values of a tag: give texts, or leave the key out."
  }
}

variable "route53" {
  description = <<-EOT
    Step: DNS records in Route 53.

    - `enabled` - Whether the step runs.
    - `zone_ids` - The hosted zones to remove records from. The function may change no other zone. Add the reverse zones to have PTR records removed.
    - `record_names` - Templates of the names that an instance bears: whole names, zone included, such as `{tag:Name}.example.internal`. A trailing dot is optional, a leading `*.` is allowed.
    - `max_requests_per_second` - The most requests a second to Route 53, of all invocations together, 0.5 to 1000. AWS admits 10 a second (and 50 at once) for the whole account, which other software shares. Five seconds of it may be saved up. Invocations share it by an item in the inventory's table, so that one at work alone has all of it, and an operator's are counted too. Without the inventory, or while DynamoDB does not answer, each keeps to its part, `max_requests_per_second / queue.max_concurrency`; then what is invoked directly comes on top.

    Placeholders: `{instance_id}`, `{tag:KEY}`, `{private_ip}`, `{private_ip_dashed}`, `{private_dns_name}`, `{hostname}` (first label of the private DNS name), `{account_id}`, `{region}`.
  EOT
  type = object({
    enabled                 = optional(bool, false)
    zone_ids                = optional(list(string), [])
    record_names            = optional(list(string), [])
    max_requests_per_second = optional(number, 5)
  })
  default  = {}
  nullable = false

  validation {
    condition     = !var.route53.enabled || length(var.route53.zone_ids) > 0
    error_message = "route53 is enabled without route53.zone_ids: name the hosted zones whose records may be removed."
  }

  validation {
    condition     = !var.route53.enabled || length(var.route53.record_names) > 0
    error_message = "route53 is enabled without route53.record_names: give at least one name template, such as \"{tag:Name}.example.internal\"."
  }

  validation {
    condition     = var.route53.max_requests_per_second >= 0.5 && var.route53.max_requests_per_second <= 1000
    error_message = "route53.max_requests_per_second is ${var.route53.max_requests_per_second}: it must be from 0.5 to 1000. AWS admits 10 for the whole account, unless a higher quota was granted."
  }

  # With less, an invocation's time would pass in waiting: one termination takes some six requests.
  validation {
    condition     = !var.route53.enabled || var.queue.max_concurrency < 2 || var.route53.max_requests_per_second / var.queue.max_concurrency >= 0.25
    error_message = "route53.max_requests_per_second is ${var.route53.max_requests_per_second} with queue.max_concurrency ${var.queue.max_concurrency}: that leaves each invocation less than the 0.25 requests a second that it needs. Lower queue.max_concurrency, or raise the limit."
  }

  validation {
    condition     = alltrue([for id in var.route53.zone_ids : can(regex("^[A-Z0-9]{1,32}$", id))])
    error_message = "route53.zone_ids holds what is not a hosted zone id: capital letters and digits only, such as \"Z0123456789ABCDEFGHIJ\", without \"/hostedzone/\" before it. A zone's name is not its id."
  }

  validation {
    condition     = length(distinct(var.route53.zone_ids)) == length(var.route53.zone_ids)
    error_message = "route53.zone_ids names a zone twice: each zone is to be named once."
  }

  validation {
    condition = alltrue(flatten([
      for name in var.route53.record_names : [
        for placeholder in regexall("\\{([^{}]*)\\}", name) :
        can(regex("^(instance_id|tag:[^{}]{1,128}|private_ip|private_ip_dashed|private_dns_name|hostname|account_id|region)$", placeholder[0]))
      ]
    ]))
    error_message = "route53.record_names has an unknown placeholder. Allowed: {instance_id}, {tag:KEY}, {private_ip}, {private_ip_dashed}, {private_dns_name}, {hostname}, {account_id}, {region}."
  }

  validation {
    condition     = alltrue([for name in var.route53.record_names : length(regexall("[{}]", replace(name, "/\\{[^{}]*\\}/", ""))) == 0])
    error_message = "route53.record_names has a brace without its partner: write each placeholder as {placeholder}."
  }

  # A tag or the private DNS name may hold dots, and so be a whole name by itself. A stray brace has its own sentence above.
  validation {
    condition = alltrue([
      for name in var.route53.record_names : can(regex(
        "^(\\*\\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\\.)+[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\\.?$",
        replace(replace(name, "/\\{(tag:[^{}]*|private_dns_name)\\}/", "x.x"), "/\\{[^{}]*\\}|[{}]/", "x")
      ))
    ])
    error_message = "route53.record_names holds what is not a whole DNS name: give the zone too, such as \"{tag:Name}.example.internal\". Labels are of letters, digits, hyphens and underscores; a leading \"*.\" and a trailing dot are allowed."
  }
}

variable "chef" {
  description = <<-EOT
    Step: node and API client in Chef Infra Server. Needs `secrets.chef_client_key`.

    - `enabled` - Whether the step runs.
    - `server_url` - URL of the server, with the organization where there is one: `https://chef.example.com/organizations/acme`.
    - `client_name` - Name of the API client that the function signs as.
    - `node_name` - Template of an instance's node name, for nodes that bear no EC2 instance id. `null` finds nodes by the instance id only. Placeholders as in `route53`.
    - `delete_client` - Whether the API client of the node goes too. With `false` its key stays valid.
    - `request_timeout_seconds` - How long one request may take, 1 to 60.
    - `max_concurrency` - How many requests of one invocation are under way at once, 1 to 32.
  EOT
  type = object({
    enabled                 = optional(bool, false)
    server_url              = optional(string)
    client_name             = optional(string)
    node_name               = optional(string)
    delete_client           = optional(bool, true)
    request_timeout_seconds = optional(number, 10)
    max_concurrency         = optional(number, 8)
  })
  default  = {}
  nullable = false

  validation {
    condition     = !var.chef.enabled || var.chef.server_url != null
    error_message = "chef is enabled without chef.server_url: give the URL of the server, such as \"https://chef.example.com/organizations/acme\"."
  }

  validation {
    condition     = !var.chef.enabled || var.chef.client_name != null
    error_message = "chef is enabled without chef.client_name: name the API client that the function signs as."
  }

  validation {
    condition     = !var.chef.enabled || contains(keys(var.secrets), "chef_client_key")
    error_message = "chef is enabled without secrets.chef_client_key: say where in Vault the private key of chef.client_name lies."
  }

  validation {
    condition     = var.chef.server_url == null || can(regex("^https?://[A-Za-z0-9.-]+(:[1-9][0-9]{0,4})?(/[^?#@[:space:]]*)?$", var.chef.server_url)) && try(tonumber(regex("^https?://[^/:]+:([0-9]+)", var.chef.server_url)[0]) <= 65535, true)
    error_message = "chef.server_url is ${jsonencode(var.chef.server_url)}: it must be a URL that begins with http:// or https:// and holds no user, query or space, with a port from 1 to 65535 or none, such as \"https://chef.example.com/organizations/acme\"."
  }

  validation {
    condition     = var.chef.client_name == null || can(regex("^[A-Za-z0-9_.-]+$", var.chef.client_name))
    error_message = "chef.client_name is ${jsonencode(var.chef.client_name)}: a client's name is of letters, digits, hyphens, underscores and dots."
  }

  validation {
    condition = var.chef.node_name == null || alltrue([
      for placeholder in try(regexall("\\{([^{}]*)\\}", var.chef.node_name), []) :
      can(regex("^(instance_id|tag:[^{}]{1,128}|private_ip|private_ip_dashed|private_dns_name|hostname|account_id|region)$", placeholder[0]))
    ])
    error_message = "chef.node_name has an unknown placeholder. Allowed: {instance_id}, {tag:KEY}, {private_ip}, {private_ip_dashed}, {private_dns_name}, {hostname}, {account_id}, {region}."
  }

  validation {
    condition     = length(regexall("[{}]", replace(coalesce(var.chef.node_name, "x"), "/\\{[^{}]*\\}/", ""))) == 0
    error_message = "chef.node_name has a brace without its partner: write each placeholder as {placeholder}."
  }

  # A template that no instance's own data enters would be every instance's name.
  validation {
    condition     = var.chef.node_name == null || length(regexall("\\{(instance_id|tag:[^{}]*|private_ip|private_ip_dashed|private_dns_name|hostname)\\}", coalesce(var.chef.node_name, "x"))) > 0
    error_message = "chef.node_name is the same for every instance: it must hold a placeholder that tells them apart, such as {tag:Name}."
  }

  validation {
    condition     = var.chef.request_timeout_seconds >= 1 && var.chef.request_timeout_seconds <= 60
    error_message = "chef.request_timeout_seconds is ${var.chef.request_timeout_seconds}: it must be from 1 to 60."
  }

  validation {
    condition     = var.chef.max_concurrency >= 1 && var.chef.max_concurrency <= 32 && floor(var.chef.max_concurrency) == var.chef.max_concurrency
    error_message = "chef.max_concurrency is ${var.chef.max_concurrency}: it must be a whole number from 1 to 32."
  }
}

variable "consul" {
  description = <<-EOT
    Step: sessions, locks and catalog entry in Consul. Uses `secrets.consul_token` where it is given.

    - `enabled` - Whether the step runs.
    - `url` - URL of a Consul agent or server: `https://consul.example.internal:8501`.
    - `datacenters` - The datacenters to look in. Empty means the agent's own.
    - `node_name` - Template of an instance's node name, for nodes that bear neither the instance id nor a recorded address. `null` finds nodes by those only. Placeholders as in `route53`.
    - `lock_prefixes` - Key prefixes under which locks are held. Locks elsewhere are freed only when their session goes, after its lock-delay.
    - `deregister_node` - Whether the node leaves the catalog too. An agent that still lives is never deregistered.
    - `request_timeout_seconds` - How long one request may take, 1 to 60.
  EOT
  type = object({
    enabled                 = optional(bool, false)
    url                     = optional(string)
    datacenters             = optional(list(string), [])
    node_name               = optional(string)
    lock_prefixes           = optional(list(string), [])
    deregister_node         = optional(bool, false)
    request_timeout_seconds = optional(number, 10)
  })
  default  = {}
  nullable = false

  validation {
    condition     = !var.consul.enabled || var.consul.url != null
    error_message = "consul is enabled without consul.url: give the URL of an agent or server, such as \"https://consul.example.internal:8501\"."
  }

  validation {
    condition     = var.consul.url == null || can(regex("^https?://[A-Za-z0-9.-]+(:[1-9][0-9]{0,4})?(/[^?#@[:space:]]*)?$", var.consul.url)) && try(tonumber(regex("^https?://[^/:]+:([0-9]+)", var.consul.url)[0]) <= 65535, true)
    error_message = "consul.url is ${jsonencode(var.consul.url)}: it must be a URL that begins with http:// or https:// and holds no user, query or space, with a port from 1 to 65535 or none, such as \"https://consul.example.internal:8501\"."
  }

  validation {
    condition     = alltrue([for datacenter in var.consul.datacenters : can(regex("^[A-Za-z0-9_-]+$", datacenter))])
    error_message = "consul.datacenters holds what is not a datacenter's name: letters, digits, hyphens and underscores only. Leave the list empty for the agent's own."
  }

  validation {
    condition     = length(distinct(var.consul.datacenters)) == length(var.consul.datacenters)
    error_message = "consul.datacenters names a datacenter twice: each is to be named once."
  }

  validation {
    condition = var.consul.node_name == null || alltrue([
      for placeholder in try(regexall("\\{([^{}]*)\\}", var.consul.node_name), []) :
      can(regex("^(instance_id|tag:[^{}]{1,128}|private_ip|private_ip_dashed|private_dns_name|hostname|account_id|region)$", placeholder[0]))
    ])
    error_message = "consul.node_name has an unknown placeholder. Allowed: {instance_id}, {tag:KEY}, {private_ip}, {private_ip_dashed}, {private_dns_name}, {hostname}, {account_id}, {region}."
  }

  validation {
    condition     = length(regexall("[{}]", replace(coalesce(var.consul.node_name, "x"), "/\\{[^{}]*\\}/", ""))) == 0
    error_message = "consul.node_name has a brace without its partner: write each placeholder as {placeholder}."
  }

  validation {
    condition     = var.consul.node_name == null || length(regexall("\\{(instance_id|tag:[^{}]*|private_ip|private_ip_dashed|private_dns_name|hostname)\\}", coalesce(var.consul.node_name, "x"))) > 0
    error_message = "consul.node_name is the same for every instance: it must hold a placeholder that tells them apart, such as {hostname}."
  }

  validation {
    condition     = alltrue([for prefix in var.consul.lock_prefixes : try(length(prefix) > 0 && !startswith(prefix, "/"), false)])
    error_message = "consul.lock_prefixes holds an empty prefix, or one that begins with a slash: Consul's keys begin without one, such as \"locks/\", and an empty prefix would read every key there is."
  }

  validation {
    condition     = var.consul.request_timeout_seconds >= 1 && var.consul.request_timeout_seconds <= 60
    error_message = "consul.request_timeout_seconds is ${var.consul.request_timeout_seconds}: it must be from 1 to 60."
  }
}

variable "secrets" {
  description = <<-EOT
    References into Vault's KV store, by the name of the secret: `chef_client_key` (the private key of `chef.client_name`, PEM) and `consul_token`. A custom step names its own in its block. The build reads them, seals them with KMS and puts the ciphertext into the zip; no value passes through Terraform. With a prebuilt package the names must be those that are in the zip.

    - `mount` - Path of the KV engine.
    - `path` - Path of the secret below the mount, as `vault kv get` takes it: without `data/`, without a leading slash.
    - `field` - Key within the secret.
    - `version` - Version to read, KV version 2 only. `null` reads the latest there is when the package is built.
  EOT
  type = map(object({
    mount   = optional(string, "secret")
    path    = string
    field   = optional(string, "value")
    version = optional(number)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.secrets) : contains(["chef_client_key", "consul_token"], name)])
    error_message = "secrets has an unknown name among ${jsonencode(keys(var.secrets))}: allowed are chef_client_key and consul_token. A custom step's own secrets stand in its block: custom_steps.<name>.secrets."
  }

  validation {
    condition     = alltrue([for secret in values(var.secrets) : can(regex("^[^/[:space:]]+(/[^/[:space:]]+)*$", secret.path))])
    error_message = "secrets has a path that is empty, begins or ends with a slash, or holds a space: write it as in \"decommission/chef\"."
  }

  validation {
    condition     = alltrue([for secret in values(var.secrets) : !startswith(secret.path, "data/")])
    error_message = "secrets has a path that begins with data/: leave that out, the build adds it where the engine is of version 2."
  }

  validation {
    condition     = alltrue([for place in flatten([for secret in values(var.secrets) : [secret.path, secret.mount]]) : length(regexall("(^|/)\\.+(/|$)", place)) == 0])
    error_message = "secrets has a path or mount with a part of dots only, which would be resolved to another place: write it out."
  }

  validation {
    condition     = alltrue([for secret in values(var.secrets) : can(regex("^[^/[:space:]]+(/[^/[:space:]]+)*$", secret.mount))])
    error_message = "secrets has a mount that is empty, begins or ends with a slash, or holds a space: write it as in \"secret\" or \"team/kv\"."
  }

  validation {
    condition     = alltrue([for secret in values(var.secrets) : try(length(secret.field) > 0, false)])
    error_message = "secrets has an empty field: name the key within the secret."
  }

  validation {
    condition     = alltrue([for secret in values(var.secrets) : secret.version == null || try(secret.version >= 1 && floor(secret.version) == secret.version, false)])
    error_message = "secrets has a version that is not a whole number from 1 upwards: leave it out to read the latest."
  }

  validation {
    condition     = length(var.secrets) == 0 || var.vault.kv_version != 1 || alltrue([for secret in values(var.secrets) : secret.version == null])
    error_message = "secrets asks for a version while vault.kv_version is 1: only version 2 of the KV engine keeps versions."
  }
}

variable "vault" {
  description = <<-EOT
    Where and how the build logs in to Vault. Where an attribute is silent, the standard variables of the build's environment serve (`VAULT_ADDR`, `VAULT_TOKEN`, `VAULT_NAMESPACE`, `VAULT_CACERT`).

    - `address` - URL of the server.
    - `namespace` - Namespace (Vault Enterprise, HCP).
    - `kv_version` - Version of the KV engine, 1 or 2. `null` asks the server.
    - `ca_certificate_file` - PEM file of the authority that signed the server's certificate.
    - `auth` - How to log in:
      - `method` - `token`, `approle`, `jwt` or `aws`.
      - `mount` - Path of the auth method, where it is not the method's name.
      - `role` - Role to log in as, for `jwt` and `aws`. `null` takes the mount's default role.
      - `role_id_file`, `secret_id_file` - Files that hold the role id and the secret id, for `approle`. `null` takes `VAULT_ROLE_ID` and `VAULT_SECRET_ID`.
      - `jwt_file` - File that holds the token, for `jwt`.
      - `jwt_env` - Name of the environment variable that holds the token, for `jwt`. `null` is `VAULT_JWT`.
      - `aws_header_value` - Value of `X-Vault-AWS-IAM-Server-ID`, for `aws`.
      - `aws_region` - Region of the STS endpoint, for `aws`.
  EOT
  type = object({
    address             = optional(string)
    namespace           = optional(string)
    kv_version          = optional(number)
    ca_certificate_file = optional(string)
    auth = optional(object({
      method           = optional(string, "token")
      mount            = optional(string)
      role             = optional(string)
      role_id_file     = optional(string)
      secret_id_file   = optional(string)
      jwt_file         = optional(string)
      jwt_env          = optional(string)
      aws_header_value = optional(string)
      aws_region       = optional(string)
    }), {})
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.vault.address == null || can(regex("^https?://[A-Za-z0-9.-]+(:[1-9][0-9]{0,4})?/?$", var.vault.address)) && try(tonumber(regex("^https?://[^/:]+:([0-9]+)", var.vault.address)[0]) <= 65535, true)
    error_message = "vault.address is ${jsonencode(var.vault.address)}: it must be a URL that begins with http:// or https:// and holds no path, with a port from 1 to 65535 or none, such as \"https://vault.example.com:8200\"."
  }

  validation {
    condition     = var.vault.kv_version == null || try(contains([1, 2], var.vault.kv_version), false)
    error_message = "vault.kv_version is ${jsonencode(var.vault.kv_version)}: it must be 1 or 2, or null to ask the server."
  }

  validation {
    condition     = contains(["token", "approle", "jwt", "aws"], var.vault.auth.method)
    error_message = "vault.auth.method is ${jsonencode(var.vault.auth.method)}: it must be token, approle, jwt or aws."
  }

  # An attribute of another method would be passed over, so it is a mistake worth telling.
  validation {
    condition = alltrue([
      for attribute, methods in {
        mount            = ["approle", "jwt", "aws"]
        role             = ["jwt", "aws"]
        role_id_file     = ["approle"]
        secret_id_file   = ["approle"]
        jwt_file         = ["jwt"]
        jwt_env          = ["jwt"]
        aws_header_value = ["aws"]
        aws_region       = ["aws"]
      } : var.vault.auth[attribute] == null || contains(methods, var.vault.auth.method)
    ])
    error_message = "vault.auth holds an attribute that the method ${jsonencode(var.vault.auth.method)} has no use for. token uses none, approle mount, role_id_file and secret_id_file, jwt mount, role, jwt_file and jwt_env, aws mount, role, aws_header_value and aws_region."
  }

  validation {
    condition     = var.vault.auth.jwt_file == null || var.vault.auth.jwt_env == null
    error_message = "vault.auth.jwt_file and vault.auth.jwt_env are both given: give one of them."
  }

  # Somebody may have put the token itself here, so the value is not repeated.
  validation {
    condition     = var.vault.auth.jwt_env == null || can(regex("^[A-Za-z_][A-Za-z0-9_]*$", var.vault.auth.jwt_env))
    error_message = "vault.auth.jwt_env must be the name of an environment variable, not the token itself."
  }
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that seals the secrets bundle. With `null` and secrets given, the module makes one. Whoever builds needs `kms:Encrypt` and `kms:GenerateDataKey` on it."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[^:]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.kms_key_arn))
    error_message = "kms_key_arn is ${jsonencode(var.kms_key_arn)}: it must be the ARN of a key, such as \"arn:aws:kms:eu-west-1:123456789012:key/...\". IAM policies know no alias."
  }
}

variable "create_kms_key" {
  description = "Whether the module makes the key that seals the secrets bundle. `null` decides by `kms_key_arn`. Set it to `false` where `kms_key_arn` is the output of a resource that the same apply makes: its value is not known at plan."
  type        = bool
  default     = null

  validation {
    condition     = var.create_kms_key != true || var.kms_key_arn == null
    error_message = "create_kms_key is true and kms_key_arn is given: the bundle is sealed with one key. Leave one of them out."
  }

  validation {
    condition     = var.create_kms_key != false || var.kms_key_arn != null || length(var.secrets) + sum(concat([0], [for step in values(var.custom_steps) : length(step.secrets) if step.enabled])) == 0
    error_message = "create_kms_key is false, and there are secrets without kms_key_arn: give the ARN of the key that seals them."
  }
}

variable "inventory" {
  description = <<-EOT
    The DynamoDB table that remembers what each instance was. EC2 forgets it soon after the termination.

    - `enabled` - Whether there is a table. Without it, only what EC2, Chef and Consul still know serves.
    - `retention_days` - Days that a terminated instance and its report are kept, 1 to 3650.
    - `deletion_protection` - Whether AWS refuses to delete the table.
  EOT
  type = object({
    enabled             = optional(bool, true)
    retention_days      = optional(number, 30)
    deletion_protection = optional(bool, false)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.inventory.retention_days >= 1 && var.inventory.retention_days <= 3650 && floor(var.inventory.retention_days) == var.inventory.retention_days
    error_message = "inventory.retention_days is ${var.inventory.retention_days}: it must be a whole number from 1 to 3650."
  }

  validation {
    condition     = var.inventory.retention_days * 86400 >= var.queue.message_retention_seconds
    error_message = "inventory.retention_days is ${var.inventory.retention_days}, shorter than queue.message_retention_seconds: an event could outlive what is known of its instance."
  }
}

variable "sweep" {
  description = <<-EOT
    The scheduled search for terminations whose event was lost. It needs the inventory, and is off without it.

    - `enabled` - Whether the sweep runs.
    - `schedule_expression` - When, as EventBridge writes it: `rate(1 hour)` or `cron(0 3 * * ? *)`.
    - `max_instances` - The most instances that one sweep may decommission, 1 to 10000. Above it nothing is removed, and the sweep fails visibly.
    - `max_fraction` - The same as a share of the recorded fleet, 0.001 to 1.
    - `adopt` - Systems whose nodes may tell of instances that died before the inventory recorded them: `chef`, `consul`, or both. A node goes whose EC2 instance id neither the inventory nor EC2 knows, unless it says that it is of another account or region, converged within the last 24 hours (Chef), or has a living agent (Consul). Where a node says nothing of account and region, naming the system here vouches for it: do so only where the server serves this account and region alone, or where its nodes say where they are (Chef: `ec2.region`, the availability zone, a DNS name of EC2, `ec2.account_id`; Consul: node meta `region`, `availability_zone`, `account_id`). What is adopted counts for the brake.
  EOT
  type = object({
    enabled             = optional(bool, true)
    schedule_expression = optional(string, "rate(1 hour)")
    max_instances       = optional(number, 50)
    max_fraction        = optional(number, 0.25)
    adopt               = optional(list(string), [])
  })
  default  = {}
  nullable = false

  validation {
    condition     = can(regex("^(rate\\((1 (minute|hour|day)|([2-9]|[1-9][0-9]+) (minutes|hours|days))\\)|cron\\([^ ()]+( [^ ()]+){5}\\))$", var.sweep.schedule_expression))
    error_message = "sweep.schedule_expression is ${jsonencode(var.sweep.schedule_expression)}: it must be rate(1 hour), rate(12 hours) or the like (singular for 1, plural above), or cron() with six fields."
  }

  # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-scheduled-rule-pattern.html
  validation {
    condition     = !startswith(var.sweep.schedule_expression, "cron(") || can(regex("^cron\\([^ ]+ [^ ]+ (\\? [^ ]+ [^ ?]+|[^ ?]+ [^ ]+ \\?) [^ ]+\\)$", var.sweep.schedule_expression))
    error_message = "sweep.schedule_expression is ${jsonencode(var.sweep.schedule_expression)}: in cron(), either the third field (day of the month) or the fifth (day of the week) must be ?, and the other one not, as in cron(0 3 * * ? *)."
  }

  validation {
    condition     = var.sweep.max_instances >= 1 && var.sweep.max_instances <= 10000 && floor(var.sweep.max_instances) == var.sweep.max_instances
    error_message = "sweep.max_instances is ${var.sweep.max_instances}: it must be a whole number from 1 to 10000."
  }

  validation {
    condition     = var.sweep.max_fraction >= 0.001 && var.sweep.max_fraction <= 1
    error_message = "sweep.max_fraction is ${var.sweep.max_fraction}: it must be a share from 0.001 to 1."
  }

  validation {
    condition     = alltrue([for source in var.sweep.adopt : contains(["chef", "consul"], source)])
    error_message = "sweep.adopt is ${jsonencode(var.sweep.adopt)}: it may hold chef and consul, the systems whose nodes bear EC2 instance ids."
  }

  validation {
    condition     = (!contains(var.sweep.adopt, "chef") || var.chef.enabled) && (!contains(var.sweep.adopt, "consul") || var.consul.enabled)
    error_message = "sweep.adopt is ${jsonencode(var.sweep.adopt)}, and a step that it names is off: it would neither be asked nor cleaned up. Switch chef.enabled or consul.enabled on, or leave it out."
  }

  validation {
    condition     = length(var.sweep.adopt) == 0 || length(var.instance_filter.include_tags) + length(var.instance_filter.exclude_tags) == 0
    error_message = "sweep.adopt is ${jsonencode(var.sweep.adopt)} together with instance_filter: the tags of an instance that died unrecorded are not known, so no filter could tell whether it is to be handled. Leave one of them empty."
  }
}

variable "queue" {
  description = <<-EOT
    Delivery of the events.

    A retry waits `retry_delay_seconds`, twice as long the next time, and so on up to `max_retry_delay_seconds`. With the defaults that is 60, 120, 240, 480, 960 and 1920 s, and 3600 s from then on: 3780 s + 23 x 3600 s = 86580 s over the 29 waits between 30 tries. So an outage of 24 hours is survived, and of 12 hours even if every wait is cut to half. `effective_config.queue.longest_outage_seconds` shows it for other values.

    - `batch_size` - The most events that one invocation takes, 1 to 10000. One invocation reads a zone once for all of them, so a large batch costs the fewest requests (docs/benchmarks.md).
    - `batch_window_seconds` - How long to wait for a batch to fill, 0 to 300. A `batch_size` above 10 needs at least 1.
    - `max_concurrency` - The most invocations at once, 2 to 1000.
    - `max_receive_count` - Tries before an event becomes a dead letter, 1 to 1000.
    - `retry_delay_seconds` - Wait before the first retry, 1 to 900.
    - `max_retry_delay_seconds` - The longest wait before a retry, up to 36000.
    - `visibility_timeout_seconds` - How long SQS waits for an invocation that never answers. At least 6 times `function.timeout`, up to 43200. `null` takes 6 times `function.timeout` plus the window.
    - `message_retention_seconds` - How long an event is kept in the queue, 3600 to 1209600. The clock runs on in the dead-letter queue, which keeps 14 days from the event.
  EOT
  type = object({
    batch_size                 = optional(number, 1000)
    batch_window_seconds       = optional(number, 5)
    max_concurrency            = optional(number, 2)
    max_receive_count          = optional(number, 30)
    retry_delay_seconds        = optional(number, 60)
    max_retry_delay_seconds    = optional(number, 3600)
    visibility_timeout_seconds = optional(number)
    message_retention_seconds  = optional(number, 1209600)
  })
  default  = {}
  nullable = false

  validation {
    condition = alltrue([
      for value in values(var.queue) : try(floor(value) == value, value == null)
    ])
    error_message = "queue holds a number with a fraction: every attribute of it is a whole number."
  }

  validation {
    condition     = var.queue.batch_size >= 1 && var.queue.batch_size <= 10000
    error_message = "queue.batch_size is ${var.queue.batch_size}: it must be from 1 to 10000."
  }

  validation {
    condition     = var.queue.batch_window_seconds >= 0 && var.queue.batch_window_seconds <= 300
    error_message = "queue.batch_window_seconds is ${var.queue.batch_window_seconds}: it must be from 0 to 300."
  }

  validation {
    condition     = var.queue.batch_size <= 10 || var.queue.batch_window_seconds >= 1
    error_message = "queue.batch_size is ${var.queue.batch_size} with queue.batch_window_seconds 0: above 10, Lambda needs a window of at least 1."
  }

  validation {
    condition     = var.queue.max_concurrency >= 2 && var.queue.max_concurrency <= 1000
    error_message = "queue.max_concurrency is ${var.queue.max_concurrency}: it must be from 2 to 1000."
  }

  validation {
    condition     = var.function.reserved_concurrent_executions == null || try(var.function.reserved_concurrent_executions >= var.queue.max_concurrency, false)
    error_message = "queue.max_concurrency is ${var.queue.max_concurrency}, more than function.reserved_concurrent_executions: throttled events would use up their tries."
  }

  validation {
    condition     = var.queue.max_receive_count >= 1 && var.queue.max_receive_count <= 1000
    error_message = "queue.max_receive_count is ${var.queue.max_receive_count}: it must be from 1 to 1000."
  }

  validation {
    condition     = var.queue.retry_delay_seconds >= 1 && var.queue.retry_delay_seconds <= 900
    error_message = "queue.retry_delay_seconds is ${var.queue.retry_delay_seconds}: it must be from 1 to 900."
  }

  validation {
    condition     = var.queue.max_retry_delay_seconds >= var.queue.retry_delay_seconds && var.queue.max_retry_delay_seconds <= 36000
    error_message = "queue.max_retry_delay_seconds is ${var.queue.max_retry_delay_seconds}: it must be from queue.retry_delay_seconds (${var.queue.retry_delay_seconds}) to 36000."
  }

  validation {
    condition     = var.queue.visibility_timeout_seconds == null || try(var.queue.visibility_timeout_seconds >= 6 * var.function.timeout && var.queue.visibility_timeout_seconds <= 43200, false)
    error_message = "queue.visibility_timeout_seconds must be at least 6 times function.timeout (${6 * var.function.timeout}) and at most 43200, or null."
  }

  validation {
    condition     = var.queue.message_retention_seconds >= 3600 && var.queue.message_retention_seconds <= 1209600
    error_message = "queue.message_retention_seconds is ${var.queue.message_retention_seconds}: it must be from 3600 to 1209600 (14 days)."
  }

  # An event that SQS drops for its age is gone without a trace.
  validation {
    condition = sum(concat([0], [
      for try in range(max(0, min(var.queue.max_receive_count, 1000) - 1)) :
      min(var.queue.max_retry_delay_seconds, var.queue.retry_delay_seconds * pow(2, min(try, 20)))
    ])) < var.queue.message_retention_seconds
    error_message = "queue: the waits between ${var.queue.max_receive_count} tries add up to more than queue.message_retention_seconds (${var.queue.message_retention_seconds}), so SQS would drop an event before it becomes a dead letter. Lower max_receive_count or max_retry_delay_seconds."
  }
}

variable "function" {
  description = <<-EOT
    The Lambda function.

    - `runtime` - `python3.11`, `python3.12` or `python3.13`.
    - `architecture` - `arm64` or `x86_64`.
    - `memory_size` - MiB, 128 to 10240. The CPU comes with it, and the default is one whole. The function needs some 130 MiB; the rest buys speed. The CPU comes with it, and the default is one whole. The function needs some 130 MiB; the rest buys speed.
    - `timeout` - Seconds that one invocation may take, 30 to 900.
    - `log_level` - `DEBUG`, `INFO`, `WARNING` or `ERROR`.
    - `reserved_concurrent_executions` - Concurrency set aside for the function, at least `queue.max_concurrency`. `null` sets none aside.
    - `tracing_mode` - `PassThrough`, or `Active` to write X-Ray traces.
  EOT
  type = object({
    runtime                        = optional(string, "python3.13")
    architecture                   = optional(string, "arm64")
    memory_size                    = optional(number, 1769)
    timeout                        = optional(number, 120)
    log_level                      = optional(string, "INFO")
    reserved_concurrent_executions = optional(number)
    tracing_mode                   = optional(string, "PassThrough")
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["python3.11", "python3.12", "python3.13"], var.function.runtime)
    error_message = "function.runtime is ${jsonencode(var.function.runtime)}: it must be python3.11, python3.12 or python3.13."
  }

  validation {
    condition     = contains(["arm64", "x86_64"], var.function.architecture)
    error_message = "function.architecture is ${jsonencode(var.function.architecture)}: it must be arm64 or x86_64."
  }

  validation {
    condition     = var.function.memory_size >= 128 && var.function.memory_size <= 10240 && floor(var.function.memory_size) == var.function.memory_size
    error_message = "function.memory_size is ${var.function.memory_size}: it must be a whole number of MiB from 128 to 10240."
  }

  validation {
    condition     = var.function.timeout >= 30 && var.function.timeout <= 900 && floor(var.function.timeout) == var.function.timeout
    error_message = "function.timeout is ${var.function.timeout}: it must be a whole number of seconds from 30 to 900."
  }

  validation {
    condition     = contains(["DEBUG", "INFO", "WARNING", "ERROR"], var.function.log_level)
    error_message = "function.log_level is ${jsonencode(var.function.log_level)}: it must be DEBUG, INFO, WARNING or ERROR, in capitals."
  }

  validation {
    condition     = var.function.reserved_concurrent_executions == null || try(var.function.reserved_concurrent_executions >= 2 && floor(var.function.reserved_concurrent_executions) == var.function.reserved_concurrent_executions, false)
    error_message = "function.reserved_concurrent_executions must be a whole number of at least 2, and of at least queue.max_concurrency; or null to set none aside."
  }

  validation {
    condition     = contains(["PassThrough", "Active"], var.function.tracing_mode)
    error_message = "function.tracing_mode is ${jsonencode(var.function.tracing_mode)}: it must be PassThrough or Active."
  }
}

variable "package" {
  description = <<-EOT
    The artifact that the function runs.

    - `type` - `build` (built by this apply, which needs Python 3.11 or newer and the network, no Docker), `prebuilt` (a zip) or `s3` (an S3 object).
    - `zip_file` - For `prebuilt`: path of the zip, best relative to the root module.
    - `s3` - For `s3`: the object, by `bucket`, `key` and `object_version`.
    - `code_sha256` - For `prebuilt` and `s3`: SHA-256 of the zip in base64, as Lambda tells it (`openssl dgst -sha256 -binary package.zip | base64`). The code is updated when it changes. For `prebuilt`, `null` reads the file at each plan.
    - `python` - For `build`: the Python to build with, by name or path.
    - `build_role_arn` - For `build`: role to assume when sealing the secrets. The build has the credentials of its environment, not a role that the provider assumes.
    - `ca_bundle_file` - For `build`: PEM file of authorities that the function trusts beside the public ones, for Chef and Consul.
    - `output_dir` - For `build`: directory to write the zip to. `null` is `.terraform/ec2-decommission` of the root module.
    - `rebuild` - For `build`: any string. The package is built again when it changes, for instance after a secret was rotated.
  EOT
  type = object({
    type     = optional(string, "build")
    zip_file = optional(string)
    s3 = optional(object({
      bucket         = string
      key            = string
      object_version = optional(string)
    }))
    code_sha256    = optional(string)
    python         = optional(string, "python3")
    build_role_arn = optional(string)
    ca_bundle_file = optional(string)
    output_dir     = optional(string)
    rebuild        = optional(string, "")
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["build", "prebuilt", "s3"], var.package.type)
    error_message = "package.type is ${jsonencode(var.package.type)}: it must be build, prebuilt or s3."
  }

  validation {
    condition     = (var.package.type == "prebuilt") == (var.package.zip_file != null)
    error_message = "package.zip_file goes with package.type = \"prebuilt\", and is needed there."
  }

  validation {
    condition     = (var.package.type == "s3") == (var.package.s3 != null)
    error_message = "package.s3 (bucket, key, object_version) goes with package.type = \"s3\", and is needed there."
  }

  validation {
    condition     = var.package.type != "s3" || try(var.package.s3.object_version, null) != null || var.package.code_sha256 != null
    error_message = "package.type is s3 without package.s3.object_version and package.code_sha256: give one of them, or a new object under the same key would go unnoticed."
  }

  validation {
    condition     = var.package.code_sha256 == null || can(regex("^[A-Za-z0-9+/]{43}=$", var.package.code_sha256))
    error_message = "package.code_sha256 is ${jsonencode(var.package.code_sha256)}: it must be the SHA-256 of the zip in base64 (44 characters that end in \"=\"), not in hexadecimal."
  }

  # What the build alone reads would be passed over, so it is a mistake worth telling.
  validation {
    condition     = var.package.type == "build" || var.package.ca_bundle_file == null && var.package.build_role_arn == null && var.package.output_dir == null && var.package.rebuild == ""
    error_message = "package.type is ${jsonencode(var.package.type)} with ca_bundle_file, build_role_arn, output_dir or rebuild: these say how to build, and nothing is built. Give them where the zip is built (make package)."
  }

  validation {
    condition     = var.package.type != "build" || var.package.code_sha256 == null
    error_message = "package.code_sha256 is given with package.type = \"build\": the digest of what is built here is known only afterwards."
  }

  validation {
    condition     = var.package.type == "build" || var.kms_key_arn != null || length(var.secrets) + sum(concat([0], [for step in values(var.custom_steps) : length(step.secrets) if step.enabled])) == 0
    error_message = "package.type is ${jsonencode(var.package.type)} with secrets but without kms_key_arn: the bundle in the zip was sealed before this apply, so name the key that it was sealed with."
  }

  validation {
    condition     = var.package.build_role_arn == null || can(regex("^arn:[^:]+:iam::[0-9]{12}:role/.+$", var.package.build_role_arn))
    error_message = "package.build_role_arn is ${jsonencode(var.package.build_role_arn)}: it must be the ARN of a role, such as \"arn:aws:iam::123456789012:role/build\"."
  }

  validation {
    condition     = var.package.ca_bundle_file == null || try(fileexists(var.package.ca_bundle_file), false)
    error_message = "package.ca_bundle_file is ${jsonencode(var.package.ca_bundle_file)}, and no such file is there."
  }

  validation {
    condition     = length(trimspace(coalesce(var.package.python, " "))) > 0
    error_message = "package.python is empty: name the Python to build with, such as python3."
  }
}

variable "log_group" {
  description = <<-EOT
    The function's log group.

    - `retention_in_days` - Days that logs are kept: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653, or 0 for ever.
    - `kms_key_arn` - Key that encrypts the logs. Its policy must admit CloudWatch Logs. `null` leaves it to AWS.
  EOT
  type = object({
    retention_in_days = optional(number, 30)
    kms_key_arn       = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains([0, 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_group.retention_in_days)
    error_message = "log_group.retention_in_days is ${var.log_group.retention_in_days}: CloudWatch knows 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653, and 0 for ever."
  }

  validation {
    condition     = var.log_group.kms_key_arn == null || can(regex("^arn:[^:]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.log_group.kms_key_arn))
    error_message = "log_group.kms_key_arn is ${jsonencode(var.log_group.kms_key_arn)}: it must be the ARN of a key, such as \"arn:aws:kms:eu-west-1:123456789012:key/...\"."
  }
}

variable "alarms" {
  description = <<-EOT
    CloudWatch alarms: dead letters, events that wait or fail for long, undelivered events, errors and throttles of the function, configuration errors, the sweep's brake, sweeps that fail. `docs/runbook.md` has a page on each.

    - `enabled` - Whether they are made.
    - `actions` - ARNs that are told when an alarm rings and when it is over, such as an SNS topic. At most 5.
    - `oldest_message_age_seconds` - Age of an event that is not finished from which the alarms `oldest-message` and `unfinished` ring, 60 to 1209600.
  EOT
  type = object({
    enabled                    = optional(bool, false)
    actions                    = optional(list(string), [])
    oldest_message_age_seconds = optional(number, 3600)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for arn in var.alarms.actions : can(regex("^arn:[^:]+:[a-z0-9-]+:[^:]*:[^:]*:.+$", arn))])
    error_message = "alarms.actions holds what is not an ARN: give ARNs, such as that of an SNS topic."
  }

  validation {
    condition     = length(var.alarms.actions) <= 5
    error_message = "alarms.actions holds ${length(var.alarms.actions)} ARNs: CloudWatch takes at most 5."
  }

  validation {
    condition     = var.alarms.oldest_message_age_seconds >= 60 && var.alarms.oldest_message_age_seconds <= 1209600
    error_message = "alarms.oldest_message_age_seconds is ${var.alarms.oldest_message_age_seconds}: it must be from 60 to 1209600."
  }
}

variable "dashboard" {
  description = <<-EOT
    A CloudWatch dashboard: what was removed and what failed, by step; the queue, the function, the sweep, the last failures.

    - `enabled` - Whether it is made.
  EOT
  type = object({
    enabled = optional(bool, false)
  })
  default  = {}
  nullable = false
}

variable "custom_steps" {
  description = <<-EOT
    Clean-up steps of one's own, by name. They run after the others, in the order of their names, under the same rules (docs/custom-steps.md).

    - `source_dir` - Directory with the step's Python code, `__init__.py` at least. It is packaged with the rest.
    - `enabled` - Whether the step runs.
    - `settings` - What the step is given, key to value. No secrets: the function's configuration is readable by whoever may read the function.
    - `secrets` - What the step is given in secret, by name: references into Vault (`mount`, `path`, `field`, `version`), as in the input `secrets`. No other step is given them.
    - `requirements_file` - Pinned and hashed requirements that are packaged too.
    - `iam_statements` - What the function is allowed for the step's sake: `actions`, `resources` and `conditions` (`test`, `variable`, `values`).
  EOT
  type = map(object({
    source_dir        = string
    enabled           = optional(bool, true)
    settings          = optional(map(string), {})
    requirements_file = optional(string)
    secrets = optional(map(object({
      mount   = optional(string, "secret")
      path    = string
      field   = optional(string, "value")
      version = optional(number)
    })), {})
    iam_statements = optional(list(object({
      actions   = list(string)
      resources = list(string)
      conditions = optional(list(object({
        test     = string
        variable = string
        values   = list(string)
      })), [])
    })), [])
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.custom_steps) : can(regex("^[a-z][a-z0-9_]{0,31}$", name))])
    error_message = "custom_steps has a name that is not allowed among ${jsonencode(keys(var.custom_steps))}: a name begins with a small letter and holds at most 32 small letters, digits and underscores, as it becomes the name of a Python package."
  }

  # The statements of the role are named after the steps, and IAM allows letters and digits only.
  validation {
    condition     = length(distinct([for name in keys(var.custom_steps) : replace(name, "_", "")])) == length(var.custom_steps)
    error_message = "custom_steps has two names that differ by underscores only, among ${jsonencode(keys(var.custom_steps))}: give one of them another name."
  }

  validation {
    condition     = length(setintersection(keys(var.custom_steps), ["route53", "chef", "consul"])) == 0
    error_message = "custom_steps uses a name that a step of the module has: route53, chef and consul are taken."
  }

  validation {
    condition     = alltrue([for step in values(var.custom_steps) : try(fileexists("${step.source_dir}/__init__.py"), false)])
    error_message = "custom_steps has a source_dir without an __init__.py in it (${jsonencode([for step in values(var.custom_steps) : step.source_dir if !try(fileexists("${step.source_dir}/__init__.py"), false)])}): name an existing directory that is a Python package, best as \"$${path.module}/...\"."
  }

  validation {
    condition     = alltrue(flatten([for step in values(var.custom_steps) : [for name in keys(step.secrets) : can(regex("^[a-z][a-z0-9_]{0,63}$", name))]]))
    error_message = "custom_steps has a secret whose name is not of small letters, digits and underscores (it begins with a letter, and has at most 64)."
  }

  validation {
    condition = alltrue(flatten([
      for step in values(var.custom_steps) : [
        for secret in values(step.secrets) : (
          alltrue([for place in [secret.mount, secret.path] : can(regex("^[^/[:space:]]+(/[^/[:space:]]+)*$", place)) && length(regexall("(^|/)\\.+(/|$)", place)) == 0]) &&
          !startswith(secret.path, "data/") &&
          try(length(secret.field) > 0, false) &&
          (secret.version == null || try(secret.version >= 1 && floor(secret.version) == secret.version, false))
        )
      ]
    ]))
    error_message = "custom_steps has a secret that cannot be read: mount and path are written as a/b/c (no slash at either end, no data/ before the path, no space, no part of dots only), field is not empty, version is a whole number from 1 or left out."
  }

  validation {
    condition     = var.vault.kv_version != 1 || alltrue(flatten([for step in values(var.custom_steps) : [for secret in values(step.secrets) : secret.version == null]]))
    error_message = "custom_steps asks for a secret's version while vault.kv_version is 1: only version 2 of the KV engine keeps versions."
  }

  validation {
    condition     = alltrue([for step in values(var.custom_steps) : step.requirements_file == null || try(fileexists(step.requirements_file), false)])
    error_message = "custom_steps has a requirements_file that does not exist."
  }

  validation {
    condition = alltrue(flatten([
      for step in values(var.custom_steps) : [for statement in step.iam_statements : length(statement.actions) > 0 && length(statement.resources) > 0]
    ]))
    error_message = "custom_steps has an iam_statements entry without actions or without resources: each needs both."
  }

  validation {
    condition = alltrue(flatten([
      for step in values(var.custom_steps) : [
        for statement in step.iam_statements : [for action in statement.actions : can(regex("^[a-z0-9-]+:[A-Za-z0-9*]*[A-Za-z0-9][A-Za-z0-9*]*$", action))]
      ]
    ]))
    error_message = "custom_steps has an iam_statements action that is not of the form service:Action, or that takes all of a service (service:*): name the actions that the step calls."
  }

  validation {
    condition = alltrue(flatten([
      for step in values(var.custom_steps) : [
        for statement in step.iam_statements : length(regexall("\\*", join(" ", statement.actions))) == 0 if contains(statement.resources, "*")
      ]
    ]))
    error_message = "custom_steps has an iam_statements entry with a wildcard in an action and the resource \"*\": that is more than one can read from it. Name each action, or narrow the resource."
  }

  validation {
    condition = alltrue(flatten([
      for step in values(var.custom_steps) : [
        for statement in step.iam_statements : [for condition in statement.conditions : can(regex("^[A-Za-z:]+$", condition.test)) && length(condition.variable) > 0 && length(condition.values) > 0]
      ]
    ]))
    error_message = "custom_steps has an iam_statements condition without test, variable or values: write it as { test = \"StringEquals\", variable = \"aws:ResourceTag/Team\", values = [\"web\"] }."
  }
}

variable "permissions_boundary_arn" {
  description = "ARN of the policy that bounds the function's role. `null` sets none."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary_arn == null || can(regex("^arn:[^:]+:iam::([0-9]{12}|aws):policy/.+$", var.permissions_boundary_arn))
    error_message = "permissions_boundary_arn is ${jsonencode(var.permissions_boundary_arn)}: it must be the ARN of a policy, such as \"arn:aws:iam::123456789012:policy/boundary\"."
  }
}

variable "tags" {
  description = "Tags of every resource that takes tags."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(var.tags) <= 50
    error_message = "tags holds ${length(var.tags)} tags: AWS takes at most 50 on a resource."
  }

  validation {
    condition     = alltrue([for key in keys(var.tags) : length(key) >= 1 && length(key) <= 128 && !startswith(lower(key), "aws:")])
    error_message = "tags has a key that AWS refuses: keys have 1 to 128 characters and do not begin with \"aws:\"."
  }

  validation {
    condition     = alltrue([for value in values(var.tags) : try(length(value) <= 256, false)])
    error_message = "tags has a value that AWS refuses: values have at most 256 characters, and none is null."
  }
}
