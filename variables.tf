variable "name" {
  description = "Prefix of the names of all resources. Use a different name for each call of the module in one account and region."
  type        = string
  default     = "ec2-decommission"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9_-]*$", var.name))
    error_message = "name is ${jsonencode(var.name)}: it must start with a letter and contain only letters, digits, hyphens and underscores."
  }

  validation {
    condition     = length(var.name) <= 48
    error_message = "name has ${length(var.name)} characters: at most 48 are allowed, because AWS limits role names to 64 characters and the role's name also contains the region."
  }

  validation {
    condition     = !startswith(lower(var.name), "aws")
    error_message = "name is ${jsonencode(var.name)}: AWS reserves names that start with \"aws\"."
  }
}

variable "vpc_config" {
  description = <<-EOT
    Attaches the function to a VPC. Use it if Chef, Consul or another server can be reached only from inside the VPC. `null` runs the function outside a VPC.

    - `subnet_ids` - Subnets to attach to. They also need a route to the AWS APIs (NAT or VPC endpoints).
    - `security_group_ids` - Security groups of the function. They must allow outgoing HTTPS.
    - `ipv6_allowed_for_dual_stack` - Allow outgoing IPv6 traffic in dual-stack subnets.
  EOT
  type = object({
    subnet_ids                  = list(string)
    security_group_ids          = list(string)
    ipv6_allowed_for_dual_stack = optional(bool, false)
  })
  default = null

  validation {
    condition     = try(length(var.vpc_config.subnet_ids) > 0, var.vpc_config == null)
    error_message = "vpc_config.subnet_ids is empty: give at least one subnet, or set vpc_config to null to run outside a VPC."
  }

  validation {
    condition     = try(length(var.vpc_config.security_group_ids) > 0, var.vpc_config == null)
    error_message = "vpc_config.security_group_ids is empty: give at least one security group, or set vpc_config to null to run outside a VPC."
  }

  validation {
    condition     = alltrue([for id in try(var.vpc_config.subnet_ids, []) : try(startswith(id, "subnet-"), false)])
    error_message = "vpc_config.subnet_ids contains a value that is not a subnet id: each must start with \"subnet-\"."
  }

  validation {
    condition     = alltrue([for id in try(var.vpc_config.security_group_ids, []) : try(startswith(id, "sg-"), false)])
    error_message = "vpc_config.security_group_ids contains a value that is not a security group id: each must start with \"sg-\"."
  }
}

variable "dry_run" {
  description = "Find and report only. Nothing is deleted; the report lists what a real run would remove."
  type        = bool
  default     = false
  nullable    = false
}

variable "paused" {
  description = "Stop acting. The function receives no events, and no sweep starts; events wait in the queue (14 days by default) until you set this to `false` again. An operator's call still runs."
  type        = bool
  default     = false
  nullable    = false
}

variable "instance_filter" {
  description = <<-EOT
    Which instances are handled. Without tags, all instances are handled. If you name tags here, an instance whose tags are not known is not handled.

    - `include_tags` - Tag key to allowed values. An instance is handled only if, for every key, its tag has one of the values.
    - `exclude_tags` - Tag key to values. An instance is left alone if, for any key, its tag has one of the values. Exclusion wins over `include_tags`.

    In a value, `*` stands for any characters, in any position: `["web-*"]`, or `["*"]` for any value. No other character is special. Values are case-sensitive.
  EOT
  type = object({
    include_tags = optional(map(list(string)), {})
    exclude_tags = optional(map(list(string)), {})
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for key, values in var.instance_filter.include_tags : key != "" && length(coalesce(values, [])) > 0])
    error_message = "instance_filter.include_tags has an empty key, or a key without values that no instance can match: each key needs at least one allowed value."
  }

  validation {
    condition     = alltrue([for key, values in var.instance_filter.exclude_tags : key != "" && length(coalesce(values, [])) > 0])
    error_message = "instance_filter.exclude_tags has an empty key, or a key without values that excludes nothing: each key needs at least one value."
  }

  validation {
    condition = alltrue(flatten([
      for values in concat(values(var.instance_filter.include_tags), values(var.instance_filter.exclude_tags)) : [for value in coalesce(values, []) : value != null]
    ]))
    error_message = "instance_filter has null among the values of a tag: each value must be a string."
  }
}

variable "organization" {
  description = <<-EOT
    Other accounts and regions that this deployment serves. `null` serves only the account and region of the function, which are always served. Call `modules/member` in each account and region that you list here.

    - `members` - Account id to an object with `regions`, the regions to serve in that account. The default is the function's region. The function's own account may be a member too, for its other regions.
    - `role_name` - Name of the read-only role that `modules/member` creates in each member account.
    - `external_id` - External id that the function passes when it assumes that role.
    - `organization_id` - Id of the AWS organization. The event bus then accepts events from the organization instead of from each account. Required above 200 members.
  EOT
  type = object({
    members = map(object({
      regions = optional(list(string))
    }))
    role_name       = optional(string, "ec2-decommission-member")
    external_id     = optional(string)
    organization_id = optional(string)
  })
  default = null

  validation {
    condition     = var.organization == null || length(try(var.organization.members, {})) > 0
    error_message = "organization.members is empty: name at least one account, or set organization to null to serve only the function's own account and region."
  }

  validation {
    condition     = alltrue([for account in keys(try(var.organization.members, {})) : can(regex(local.account_id_pattern, account))])
    error_message = "organization.members has a key that is not an account id (${jsonencode([for account in keys(try(var.organization.members, {})) : account if !can(regex(local.account_id_pattern, account))])}): an account id has 12 digits."
  }

  validation {
    condition = alltrue(flatten([
      for member in values(try(var.organization.members, {})) : [for region in try(coalesce(member.regions), []) : can(regex(local.region_pattern, region))]
    ]))
    error_message = "organization.members has a region that is not the name of an AWS region: write it as in \"eu-west-1\"."
  }

  validation {
    condition     = alltrue([for member in values(try(var.organization.members, {})) : try(length(member.regions) > 0 && length(distinct(member.regions)) == length(member.regions), member != null && try(member.regions, null) == null)])
    error_message = "organization.members has an account whose regions are empty or contain a region twice: name each region once, or leave regions out for the function's region."
  }

  validation {
    condition     = length(try(var.organization.members, {})) <= 500
    error_message = "organization.members has ${length(try(var.organization.members, {}))} accounts: at most 500 are allowed. Split them over several calls of this module."
  }

  validation {
    condition     = length(try(var.organization.members, {})) <= 200 || try(var.organization.organization_id, null) != null
    error_message = "organization.members has ${length(try(var.organization.members, {}))} accounts and organization.organization_id is not set: above 200 accounts it is required, because the policy of an event bus cannot name more accounts."
  }

  validation {
    condition     = var.organization == null || can(regex("^[A-Za-z0-9+=,.@_-]{1,64}$", var.organization.role_name))
    error_message = "organization.role_name is ${jsonencode(try(var.organization.role_name, null))}: it must be the name of a role without its path, 1 to 64 letters, digits and any of + = , . @ _ -."
  }

  validation {
    condition     = try(var.organization.external_id, null) == null || can(regex("^[A-Za-z0-9_+=,.@:/-]{2,}$", var.organization.external_id)) && length(try(coalesce(var.organization.external_id), "")) <= 1224
    error_message = "organization.external_id must have 2 to 1224 letters, digits and any of _ + = , . @ : / -."
  }

  validation {
    condition     = try(var.organization.organization_id, null) == null || can(regex("^o-[a-z0-9]{10,32}$", var.organization.organization_id))
    error_message = "organization.organization_id is ${jsonencode(try(var.organization.organization_id, null))}: it must be the id of an AWS organization, such as \"o-a1b2c3d4e5\"."
  }
}

variable "route53" {
  description = <<-EOT
    Step: DNS records in Route 53.

    - `enabled` - Run this step.
    - `zone_ids` - Hosted zones to remove records from, in the function's own account. The function cannot change any other zone. Add your reverse zones to have PTR records removed.
    - `zones` - Hosted zones with more detail; both lists may be used together:
      - `id` - Id of the zone.
      - `role_arn` - Role to assume for this zone, if another account owns it.
      - `external_id` - External id for that role.
    - `record_names` - Templates of an instance's DNS names. Give whole names, zone included, such as `{tag:Name}.example.internal`. A trailing dot is optional and a leading `*.` is allowed.
    - `external_dns` - The flags that external-dns runs with in these zones, so that the function recognizes the records that external-dns owns. In Terraform, write `%%{record_type}` as `%%%{record_type}`.
      - `txt_prefix` - Value of `--txt-prefix`.
      - `txt_suffix` - Value of `--txt-suffix`.
      - `wildcard_replacement` - Value of `--txt-wildcard-replacement`.
    - `keep_names` - Glob patterns of names that are never touched, such as `*.prod.example.internal`.
    - `max_requests_per_second` - Maximum number of requests per second to Route 53 for each account that owns zones, 0.5 to 1000. AWS allows 10 per second (and bursts of 50) for an account, shared with all other software. Each invocation gets an equal share: `max_requests_per_second / queue.max_concurrency`.

    Placeholders: `{instance_id}`, `{tag:KEY}`, `{private_ip}`, `{private_ip_dashed}`, `{private_dns_name}`, `{hostname}` (first label of the private DNS name), `{account_id}`, `{region}`.
  EOT
  type = object({
    enabled  = optional(bool)
    zone_ids = optional(list(string), [])
    zones = optional(list(object({
      id          = string
      role_arn    = optional(string)
      external_id = optional(string)
    })), [])
    record_names = optional(list(string), [])
    external_dns = optional(object({
      txt_prefix           = optional(string)
      txt_suffix           = optional(string)
      wildcard_replacement = optional(string)
    }))
    keep_names              = optional(list(string), [])
    max_requests_per_second = optional(number, 5)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.route53.enabled != true || length(var.route53.zone_ids) + length(var.route53.zones) > 0
    error_message = "route53 is enabled without route53.zone_ids and route53.zones: name the hosted zones whose records may be removed."
  }

  validation {
    condition     = var.route53.enabled != true || length(var.route53.record_names) > 0
    error_message = "route53 is enabled without route53.record_names: give at least one name template, such as \"{tag:Name}.example.internal\"."
  }

  validation {
    condition     = var.route53.max_requests_per_second >= 0.5 && var.route53.max_requests_per_second <= 1000
    error_message = "route53.max_requests_per_second is ${var.route53.max_requests_per_second}: it must be from 0.5 to 1000. AWS allows 10 for a whole account unless you have a higher quota."
  }

  # Below this rate, an invocation would mostly wait: one termination takes about six requests.
  validation {
    condition     = var.route53.enabled != true || var.queue.max_concurrency < 2 || var.route53.max_requests_per_second / var.queue.max_concurrency >= 0.25
    error_message = "route53.max_requests_per_second is ${var.route53.max_requests_per_second} with queue.max_concurrency ${var.queue.max_concurrency}: each invocation needs at least 0.25 requests per second. Lower queue.max_concurrency or raise the limit."
  }

  validation {
    condition     = alltrue([for id in concat(var.route53.zone_ids, [for zone in var.route53.zones : zone.id]) : can(regex("^[A-Z0-9]{1,32}$", id))])
    error_message = "route53.zone_ids or route53.zones contains a value that is not a hosted zone id: use only uppercase letters and digits, such as \"Z0123456789ABCDEFGHIJ\", without \"/hostedzone/\". The name of a zone is not its id."
  }

  validation {
    condition     = length(distinct(concat(var.route53.zone_ids, [for zone in var.route53.zones : zone.id]))) == length(var.route53.zone_ids) + length(var.route53.zones)
    error_message = "route53.zone_ids and route53.zones name a zone twice: name each zone once."
  }

  validation {
    condition     = alltrue([for zone in var.route53.zones : zone.role_arn == null || can(regex(local.role_arn_pattern, zone.role_arn))])
    error_message = "route53.zones has a role_arn that is not the ARN of a role, such as \"arn:aws:iam::123456789012:role/dns\"."
  }

  validation {
    condition     = alltrue([for zone in var.route53.zones : zone.external_id == null || zone.role_arn != null && can(regex("^[A-Za-z0-9_+=,.@:/-]{2,}$", zone.external_id)) && length(coalesce(zone.external_id, "x")) <= 1224])
    error_message = "route53.zones has an external_id without a role_arn, or one that AWS refuses: an external id has 2 to 1224 letters, digits and any of _ + = , . @ : / -."
  }

  validation {
    condition     = alltrue([for name in var.route53.record_names : length(regexall("[{}]", replace(name, "/\\{(${local.name_placeholders})\\}/", ""))) == 0])
    error_message = "route53.record_names has an unknown placeholder, or an unmatched brace. Allowed: ${local.name_placeholders_list}."
  }

  # A tag or the private DNS name may contain dots, so it can be a whole name. The validation above reports braces.
  validation {
    condition = alltrue([
      for name in var.route53.record_names : can(regex(
        "^(\\*\\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\\.)+[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\\.?$",
        replace(replace(name, "/\\{(tag:[^{}]*|private_dns_name)\\}/", "x.x"), "/\\{[^{}]*\\}|[{}]/", "x")
      ))
    ])
    error_message = "route53.record_names contains a value that is not a whole DNS name: include the zone, such as \"{tag:Name}.example.internal\". Labels contain letters, digits, hyphens and underscores; a leading \"*.\" and a trailing dot are allowed."
  }

  validation {
    condition     = try(var.route53.external_dns.txt_prefix == null || var.route53.external_dns.txt_suffix == null, true)
    error_message = "route53.external_dns has txt_prefix and txt_suffix: external-dns runs with one of them only."
  }

  validation {
    condition = alltrue([
      for affix in [try(var.route53.external_dns.txt_prefix, null), try(var.route53.external_dns.txt_suffix, null)] :
      affix == null || can(regex("^[A-Za-z0-9._-]+$", replace(coalesce(affix, "x"), "%%{record_type}", "x")))
    ])
    error_message = "route53.external_dns has a txt_prefix or txt_suffix that cannot be part of a DNS name: use letters, digits, dots, hyphens, underscores and %%{record_type}, written in Terraform as %%%{record_type}."
  }

  validation {
    condition     = try(var.route53.external_dns.wildcard_replacement, null) == null || can(regex("^[A-Za-z0-9_-]{1,63}$", var.route53.external_dns.wildcard_replacement))
    error_message = "route53.external_dns.wildcard_replacement must be one DNS label, such as \"any\"."
  }

  validation {
    condition     = alltrue([for name in var.route53.keep_names : can(regex("^[^{}[:space:]]+$", name))])
    error_message = "route53.keep_names has a pattern that is empty or contains a space or a brace: give glob patterns such as \"*.prod.example.internal\". Placeholders are not allowed there."
  }
}

variable "chef" {
  description = <<-EOT
    Step: node and API client in Chef Infra Server. Requires `secrets.chef_client_key`.

    - `enabled` - Run this step.
    - `server_url` - URL of the server, with the organization if there is one: `https://chef.example.com/organizations/acme`.
    - `client_name` - Name of the API client that the function signs its requests as.
    - `node_name` - Template of an instance's node name, for nodes without an EC2 instance id. `null` finds nodes by their instance id only. Placeholders as in `route53`.
    - `delete_client` - Also delete the node's API client. With `false`, its key stays valid.
    - `signing_protocol` - Version of Chef's signing protocol: `1.3` (SHA-256), or `1.0` (SHA-1) for old servers.
    - `request_timeout_seconds` - Timeout of one request, 1 to 60.
    - `max_concurrency` - Maximum number of concurrent requests in one invocation, 1 to 32.
  EOT
  type = object({
    enabled                 = optional(bool)
    server_url              = optional(string)
    client_name             = optional(string)
    node_name               = optional(string)
    delete_client           = optional(bool, true)
    signing_protocol        = optional(string, "1.3")
    request_timeout_seconds = optional(number, 10)
    max_concurrency         = optional(number, 8)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.chef.enabled != true || var.chef.server_url != null
    error_message = "chef is enabled without chef.server_url: give the URL of the server, such as \"https://chef.example.com/organizations/acme\"."
  }

  validation {
    condition     = var.chef.enabled != true || var.chef.client_name != null
    error_message = "chef is enabled without chef.client_name: name the API client that the function signs its requests as."
  }

  validation {
    condition     = var.chef.enabled != true || contains(keys(var.secrets), "chef_client_key")
    error_message = "chef is enabled without secrets.chef_client_key: give the Vault reference of the private key of chef.client_name."
  }

  validation {
    condition     = var.chef.server_url == null || can(regex(local.url_pattern, var.chef.server_url))
    error_message = "chef.server_url is ${jsonencode(try(replace(var.chef.server_url, local.password_in_url, "//...@"), null))}: it must be a URL that starts with http:// or https://, with a port from 1 to 65535 or none, and without user, query or spaces, such as \"https://chef.example.com/organizations/acme\"."
  }

  validation {
    condition     = var.chef.client_name == null || can(regex("^[A-Za-z0-9_.-]+$", var.chef.client_name))
    error_message = "chef.client_name is ${jsonencode(var.chef.client_name)}: a client's name contains letters, digits, hyphens, underscores and dots."
  }

  validation {
    condition     = length(regexall("[{}]", replace(coalesce(var.chef.node_name, "x"), "/\\{(${local.name_placeholders})\\}/", ""))) == 0
    error_message = "chef.node_name has an unknown placeholder, or an unmatched brace. Allowed: ${local.name_placeholders_list}."
  }

  validation {
    condition     = var.chef.node_name == null || length(regexall(local.distinct_placeholders, coalesce(var.chef.node_name, "x"))) > 0
    error_message = "chef.node_name is the same for every instance: it needs a placeholder that differs between instances, such as {tag:Name}."
  }

  validation {
    condition     = contains(["1.0", "1.3"], var.chef.signing_protocol)
    error_message = "chef.signing_protocol is ${jsonencode(var.chef.signing_protocol)}: it must be \"1.3\", or \"1.0\" for old servers."
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
    Step: sessions, locks and catalog entry in Consul. Uses `secrets.consul_token`, `secrets.consul_client_certificate` and `secrets.consul_client_key` if you give them.

    - `enabled` - Run this step.
    - `url` - URL of a Consul agent or server: `https://consul.example.internal:8501`.
    - `datacenters` - Datacenters to search. Empty means the agent's own.
    - `node_name` - Template of an instance's node name. A name that contains `{instance_id}` proves that a node is the instance's. Any other name proves nothing. It only distinguishes overlapping private ranges, and the report lists nodes with that name that stay. Placeholders as in `route53`.
    - `lock_prefixes` - Key prefixes under which locks are held. Other locks are released only when their session ends, after its lock-delay.
    - `deregister_node` - Also remove the node from the catalog. A node whose agent is alive is never deregistered.
    - `request_timeout_seconds` - Timeout of one request, 1 to 60.
  EOT
  type = object({
    enabled                 = optional(bool)
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
    condition     = var.consul.enabled != true || var.consul.url != null
    error_message = "consul is enabled without consul.url: give the URL of an agent or server, such as \"https://consul.example.internal:8501\"."
  }

  validation {
    condition     = var.consul.url == null || can(regex(local.url_pattern, var.consul.url))
    error_message = "consul.url is ${jsonencode(try(replace(var.consul.url, local.password_in_url, "//...@"), null))}: it must be a URL that starts with http:// or https://, with a port from 1 to 65535 or none, and without user, query or spaces, such as \"https://consul.example.internal:8501\"."
  }

  validation {
    condition     = alltrue([for datacenter in var.consul.datacenters : can(regex("^[A-Za-z0-9_-]+$", datacenter))])
    error_message = "consul.datacenters contains a value that is not the name of a datacenter: use letters, digits, hyphens and underscores. Leave the list empty for the agent's own."
  }

  validation {
    condition     = length(distinct(var.consul.datacenters)) == length(var.consul.datacenters)
    error_message = "consul.datacenters names a datacenter twice: name each one once."
  }

  validation {
    condition     = length(regexall("[{}]", replace(coalesce(var.consul.node_name, "x"), "/\\{(${local.name_placeholders})\\}/", ""))) == 0
    error_message = "consul.node_name has an unknown placeholder, or an unmatched brace. Allowed: ${local.name_placeholders_list}."
  }

  validation {
    condition     = var.consul.node_name == null || length(regexall(local.distinct_placeholders, coalesce(var.consul.node_name, "x"))) > 0
    error_message = "consul.node_name is the same for every instance: it needs a placeholder that differs between instances, such as {hostname}."
  }

  validation {
    condition     = alltrue([for prefix in var.consul.lock_prefixes : try(length(prefix) > 0 && !startswith(prefix, "/"), false)])
    error_message = "consul.lock_prefixes has a prefix that is empty or starts with a slash: Consul's keys start without one, such as \"locks/\". An empty prefix would match every key."
  }

  validation {
    condition     = var.consul.request_timeout_seconds >= 1 && var.consul.request_timeout_seconds <= 60
    error_message = "consul.request_timeout_seconds is ${var.consul.request_timeout_seconds}: it must be from 1 to 60."
  }
}

variable "http_steps" {
  description = <<-EOT
    Steps for REST APIs, by name. They run in parallel with the other steps. Each step finds items, proves that an item belongs to the instance, and removes it.

    - `enabled` - Run this step.
    - `url` - Scheme, host, port and base path of the API. No placeholder is allowed here, and redirects are not followed.
    - `headers` - Headers of all requests of the step.
    - `secrets` - The step's secrets, by name: references into Vault as in the input `secrets` (`mount`, `path`, `field`, `version`). Use them as `{secret:NAME}`.
    - `find` - The request that lists candidates:
      - `method` - `GET` or `POST`.
      - `path` - Appended to `url` unchanged. The value of a placeholder is escaped as one URL segment.
      - `query` - Query parameters.
      - `headers` - Headers of this request.
      - `body` - JSON text. Placeholders are allowed inside its strings.
      - `items` - JMESPath of the list of items in the answer. The request fails unless it is a list.
      - `id` - JMESPath of an item's id.
      - `next` - JMESPath of the URL or path of the next page. `null` reads one page.
      - `error` - JMESPath of an error in a 2xx answer. A true value fails the step.
    - `prove` - The proof. The value of `field` must equal `equals`:
      - `field` - JMESPath in the item.
      - `equals` - Exactly `{instance_id}`, `{private_ip}` or `{private_dns_name}`.
    - `keep` - JMESPath expressions. If one of them is true for an item, the item is never touched.
    - `remove` - The request that removes one item: `method`, `path`, `query`, `headers`, `body` and `error` as in `find`, and:
      - `gone` - Statuses that mean that the item is already gone, such as 404. They count only if a new find no longer shows the item.
    - `auth` - How to log in, if not by a header. One of:
      - `basic` - Basic authentication. `username` and `password` are names of secrets of the step.
      - `oauth2` - OAuth 2.0 client credentials: `token_url`, `client_id`, `client_secret` (the name of a secret of the step) and `scope`.
    - `request_timeout_seconds` - Timeout of one request, 1 to 60.
    - `max_concurrency` - Maximum number of concurrent requests in one invocation, 1 to 32.

    Placeholders: those of `route53`, `{secret:NAME}`, and in `remove` also `{id}` and `{item:JMESPATH}`.
  EOT
  type = map(object({
    enabled = optional(bool, true)
    url     = string
    headers = optional(map(string), {})
    secrets = optional(map(object({
      mount   = optional(string, "secret")
      path    = string
      field   = optional(string, "value")
      version = optional(number)
    })), {})
    find = object({
      method  = optional(string, "GET")
      path    = optional(string, "")
      query   = optional(map(string), {})
      headers = optional(map(string), {})
      body    = optional(string)
      items   = string
      id      = string
      next    = optional(string)
      error   = optional(string)
    })
    prove = optional(object({
      field  = string
      equals = string
    }))
    keep = optional(list(string), [])
    remove = object({
      method  = optional(string, "DELETE")
      path    = optional(string, "")
      query   = optional(map(string), {})
      headers = optional(map(string), {})
      body    = optional(string)
      gone    = optional(list(number), [])
      error   = optional(string)
    })
    auth = optional(object({
      basic = optional(object({
        username = string
        password = string
      }))
      oauth2 = optional(object({
        token_url     = string
        client_id     = string
        client_secret = string
        scope         = optional(string)
      }))
    }))
    request_timeout_seconds = optional(number, 10)
    max_concurrency         = optional(number, 4)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.http_steps) : can(regex("^[A-Za-z][A-Za-z0-9_-]{0,63}$", name))])
    error_message = "http_steps has a name that is not allowed among ${jsonencode(keys(var.http_steps))}: a name starts with a letter and has at most 64 letters, digits, hyphens and underscores."
  }

  validation {
    condition     = length(setintersection(keys(var.http_steps), concat(["route53", "chef", "consul"], keys(var.custom_steps)))) == 0
    error_message = "http_steps uses a name that another step has (${jsonencode(setintersection(keys(var.http_steps), concat(["route53", "chef", "consul"], keys(var.custom_steps))))}): names are unique among route53, chef, consul, http_steps and custom_steps."
  }

  validation {
    condition     = alltrue([for step in values(var.http_steps) : can(regex(local.url_pattern, step.url))])
    error_message = "http_steps has a url that is not allowed (${jsonencode([for step in values(var.http_steps) : replace(step.url, local.password_in_url, "//...@") if !can(regex(local.url_pattern, step.url))])}): it must start with http:// or https:// and name a host, with a port from 1 to 65535 or none, and without user, query, spaces or placeholders. Put placeholders into find.path and remove.path."
  }

  # Otherwise the path would extend the host name or the port.
  validation {
    condition = alltrue(flatten([
      for step in values(var.http_steps) : [
        for request in [step.find, step.remove] : request.path == "" || startswith(request.path, "/") || can(regex("^https?://[^/]+/", step.url))
      ]
    ]))
    error_message = "http_steps has a path that does not start with a slash, after a url that ends with its host: the path would change the host. Write it as in \"/api/hosts\"."
  }

  validation {
    condition = alltrue(flatten([
      for step in values(var.http_steps) : [
        for request in [step.find, step.remove] : length(regexall("[#\\\\[:space:][:cntrl:]]|(^|/)\\.\\.?(/|\\?|$)", replace(request.path, "/\\{item:[^{}]*\\}/", "x"))) == 0
      ]
    ]))
    error_message = "http_steps has a path with a space, #, \\ or a segment of dots only: such a path would lead to another URL."
  }

  validation {
    condition     = alltrue([for step in values(var.http_steps) : try(length(step.prove.field) > 0, false)])
    error_message = "http_steps has a step without a proof (${jsonencode([for name, step in var.http_steps : name if !try(length(step.prove.field) > 0, false)])}): give prove = { field = \"...\", equals = \"{instance_id}\" }, so that only the instance's own items are removed."
  }

  validation {
    condition     = alltrue([for step in values(var.http_steps) : step.prove == null || try(contains(["{instance_id}", "{private_ip}", "{private_dns_name}"], step.prove.equals), false)])
    error_message = "http_steps has a prove.equals that proves nothing (${jsonencode([for step in values(var.http_steps) : try(step.prove.equals, null)])}): it must be exactly {instance_id}, {private_ip} or {private_dns_name}."
  }

  validation {
    condition     = alltrue([for step in values(var.http_steps) : contains(["GET", "POST"], step.find.method) && contains(["GET", "POST", "PUT", "PATCH", "DELETE"], step.remove.method)])
    error_message = "http_steps has a method that is not allowed: find.method must be GET or POST, and remove.method must be GET, POST, PUT, PATCH or DELETE."
  }

  validation {
    condition = alltrue(flatten([
      for step in values(var.http_steps) : [for expression in concat([step.find.items, step.find.id], step.keep, compact([step.find.next, step.find.error, step.remove.error])) : try(length(trimspace(expression)) > 0, false)]
    ]))
    error_message = "http_steps has an empty JMESPath expression in find.items, find.id or keep: find.items is the list in the answer (\"@\" for the answer itself), find.id the id of an item."
  }

  validation {
    condition     = alltrue(flatten([for step in values(var.http_steps) : [for body in [step.find.body, step.remove.body] : body == null || can(jsondecode(body))]]))
    error_message = "http_steps has a body that is not JSON: write placeholders inside its strings, as in jsonencode({ host = \"{instance_id}\" })."
  }

  # Remove all known placeholders. The rest must not contain a brace. In a body, only its strings are checked.
  validation {
    condition = alltrue(flatten([
      for step in values(var.http_steps) : [
        for text in concat(
          [step.find.path], values(step.headers), values(step.find.headers), values(step.find.query),
          regexall("\"(?:[^\"\\\\]|\\\\.)*\"", coalesce(step.find.body, "null")),
        ) : length(regexall("[{}]", replace(replace(text, "/\\{(${local.name_placeholders})\\}/", ""), "/\\{secret:(${join("|", concat(["$^"], keys(step.secrets)))})\\}/", ""))) == 0
      ]
    ]))
    error_message = "http_steps has an unknown placeholder, or an unmatched brace, in headers or find. Allowed there: ${local.name_placeholders_list}, and {secret:NAME} with a name in the step's secrets."
  }

  validation {
    condition = alltrue(flatten([
      for step in values(var.http_steps) : [
        for text in concat(
          [step.remove.path], values(step.remove.headers), values(step.remove.query),
          regexall("\"(?:[^\"\\\\]|\\\\.)*\"", coalesce(step.remove.body, "null")),
        ) : length(regexall("[{}]", replace(replace(text, "/\\{(${local.name_placeholders}|id|item:[^{}]+)\\}/", ""), "/\\{secret:(${join("|", concat(["$^"], keys(step.secrets)))})\\}/", ""))) == 0
      ]
    ]))
    error_message = "http_steps has an unknown placeholder, or an unmatched brace, in remove. Allowed there: ${local.name_placeholders_list}, {id}, {item:JMESPATH}, and {secret:NAME} with a name in the step's secrets."
  }

  validation {
    condition = alltrue([
      for step in values(var.http_steps) : length(regexall("\\{(id|item:[^{}]+|instance_id)\\}", join(" ", concat([step.remove.path, coalesce(step.remove.body, "-")], values(step.remove.query), values(step.remove.headers))))) > 0
    ])
    error_message = "http_steps has a remove that does not say what to remove (${jsonencode([for name, step in var.http_steps : name if length(regexall("\\{(id|item:[^{}]+|instance_id)\\}", join(" ", concat([step.remove.path, coalesce(step.remove.body, "-")], values(step.remove.query), values(step.remove.headers))))) == 0])}): put {id} into its path, query or body."
  }

  validation {
    condition = alltrue(flatten([
      for step in values(var.http_steps) : [
        for headers in [step.headers, step.find.headers, step.remove.headers] : [for name, value in headers : can(regex("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", name)) && try(length(regexall("[[:cntrl:]]", value)) == 0, false)]
      ]
    ]))
    error_message = "http_steps has a header with a name that HTTP does not allow, or a value with a line break."
  }

  validation {
    condition     = alltrue(flatten([for step in values(var.http_steps) : [for status in step.remove.gone : try(status >= 400 && status <= 499 && floor(status) == status, false)]]))
    error_message = "http_steps has a status in remove.gone that does not mean \"gone\": give whole numbers from 400 to 499, such as 404."
  }

  validation {
    condition = alltrue([
      for step in values(var.http_steps) : step.auth == null || try(
        step.auth.oauth2 == null ? contains(keys(step.secrets), step.auth.basic.username) && contains(keys(step.secrets), step.auth.basic.password) : (
          step.auth.basic == null && contains(keys(step.secrets), step.auth.oauth2.client_secret) && length(step.auth.oauth2.client_id) > 0 && can(regex(local.url_pattern, step.auth.oauth2.token_url))
        ),
        false
      )
    ])
    error_message = "http_steps has an auth that cannot work: give either basic, whose username and password are names in the step's secrets, or oauth2, with a token_url, a client_id and a client_secret that is a name in the step's secrets."
  }

  validation {
    condition     = alltrue(flatten([for step in values(var.http_steps) : [for name in keys(step.secrets) : can(regex("^[A-Za-z][A-Za-z0-9_-]{0,63}$", name))]]))
    error_message = "http_steps has a secret whose name is not allowed: it starts with a letter and has at most 64 letters, digits, hyphens and underscores."
  }

  validation {
    condition = alltrue(flatten([
      for step in values(var.http_steps) : [
        for secret in values(step.secrets) : (
          alltrue([for place in [secret.mount, secret.path] : can(regex("^[^/[:space:]]+(/[^/[:space:]]+)*$", place)) && length(regexall("(^|/)\\.+(/|$)", place)) == 0]) &&
          !startswith(secret.path, "data/") &&
          try(length(secret.field) > 0, false) &&
          (secret.version == null || try(secret.version >= 1 && floor(secret.version) == secret.version, false))
        )
      ]
    ]))
    error_message = "http_steps has a secret that cannot be read: write mount and path as a/b/c (no slash at either end, no data/ before the path, no space, no part of dots only), name a field, and give a whole number from 1 as the version, or leave it out."
  }

  validation {
    condition     = var.vault.kv_version != 1 || alltrue(flatten([for step in values(var.http_steps) : [for secret in values(step.secrets) : secret.version == null]]))
    error_message = "http_steps asks for a secret's version while vault.kv_version is 1: only version 2 of the KV engine keeps versions."
  }

  validation {
    condition     = alltrue([for step in values(var.http_steps) : step.request_timeout_seconds >= 1 && step.request_timeout_seconds <= 60])
    error_message = "http_steps has a request_timeout_seconds that is not from 1 to 60."
  }

  validation {
    condition     = alltrue([for step in values(var.http_steps) : step.max_concurrency >= 1 && step.max_concurrency <= 32 && floor(step.max_concurrency) == step.max_concurrency])
    error_message = "http_steps has a max_concurrency that is not a whole number from 1 to 32."
  }
}

variable "custom_steps" {
  description = <<-EOT
    Your own steps in Python, by name. They follow the same rules as the other steps (docs/custom-steps.md).

    - `source_dir` - Directory with the step's Python code; it must contain `__init__.py`. It is packaged with the function.
    - `enabled` - Run this step.
    - `settings` - Settings of the step, key to value. Do not put secrets here: anyone with `lambda:GetFunctionConfiguration` can read them.
    - `secrets` - The step's secrets, by name: references into Vault as in the input `secrets` (`mount`, `path`, `field`, `version`). No other step gets them.
    - `requirements_file` - Pinned and hashed requirements to package with the step.
    - `iam_statements` - Permissions that the step adds to the function's role: `actions`, `resources` and `conditions` (`test`, `variable`, `values`).
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
    error_message = "custom_steps has a name that is not allowed among ${jsonencode(keys(var.custom_steps))}: a name starts with a lowercase letter and has at most 32 lowercase letters, digits and underscores, because it becomes the name of a Python package."
  }

  # The role's statements are named after the steps, and IAM allows only letters and digits.
  validation {
    condition     = length(distinct([for name in keys(var.custom_steps) : replace(name, "_", "")])) == length(var.custom_steps)
    error_message = "custom_steps has two names that differ by underscores only, among ${jsonencode(keys(var.custom_steps))}: rename one of them."
  }

  validation {
    condition     = length(setintersection(keys(var.custom_steps), ["route53", "chef", "consul"])) == 0
    error_message = "custom_steps uses a name that a step of the module has: route53, chef and consul are taken."
  }

  validation {
    condition     = alltrue([for step in values(var.custom_steps) : try(fileexists("${step.source_dir}/__init__.py"), false)])
    error_message = "custom_steps has a source_dir without an __init__.py in it (${jsonencode([for step in values(var.custom_steps) : step.source_dir if !try(fileexists("${step.source_dir}/__init__.py"), false)])}): name a directory that is a Python package, preferably as \"$${path.module}/...\"."
  }

  validation {
    condition     = alltrue(flatten([for step in values(var.custom_steps) : [for name in keys(step.secrets) : can(regex("^[a-z][a-z0-9_]{0,63}$", name))]]))
    error_message = "custom_steps has a secret whose name is not allowed: it starts with a lowercase letter and has at most 64 lowercase letters, digits and underscores."
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
    error_message = "custom_steps has a secret that cannot be read: write mount and path as a/b/c (no slash at either end, no data/ before the path, no space, no part of dots only), name a field, and give a whole number from 1 as the version, or leave it out."
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
    error_message = "custom_steps has an iam_statements action that is not of the form service:Action, or that grants a whole service (service:*): name the actions that the step calls."
  }

  validation {
    condition = alltrue(flatten([
      for step in values(var.custom_steps) : [
        for statement in step.iam_statements : length(regexall("\\*", join(" ", statement.actions))) == 0 if contains(statement.resources, "*")
      ]
    ]))
    error_message = "custom_steps has an iam_statements entry with a wildcard in an action and the resource \"*\": that grants too much. Name each action, or narrow the resource."
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

variable "secrets" {
  description = <<-EOT
    References into Vault's KV store, by the name of the secret: `chef_client_key` (private key of `chef.client_name`, PEM), `consul_token`, and `consul_client_certificate` with `consul_client_key` (PEM) for a Consul that verifies clients. HTTP and custom steps name their own secrets in their blocks. The build reads the secrets, seals them with KMS and packages the ciphertext; no value passes through Terraform.

    - `mount` - Path of the KV engine.
    - `path` - Path of the secret below the mount, as in `vault kv get`: without `data/` and without a leading slash.
    - `field` - Key within the secret.
    - `version` - Version to read, KV version 2 only. `null` reads the latest version at build time.
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
    condition     = alltrue([for name in keys(var.secrets) : contains(["chef_client_key", "consul_token", "consul_client_certificate", "consul_client_key"], name)])
    error_message = "secrets has an unknown name among ${jsonencode(keys(var.secrets))}: allowed are chef_client_key, consul_token, consul_client_certificate and consul_client_key. The secrets of HTTP and custom steps go into their own blocks."
  }

  validation {
    condition     = contains(keys(var.secrets), "consul_client_certificate") == contains(keys(var.secrets), "consul_client_key")
    error_message = "secrets has one of consul_client_certificate and consul_client_key without the other: give both or neither."
  }

  validation {
    condition     = alltrue([for secret in values(var.secrets) : can(regex("^[^/[:space:]]+(/[^/[:space:]]+)*$", secret.path))])
    error_message = "secrets has a path that is empty, starts or ends with a slash, or contains a space: write it as in \"decommission/chef\"."
  }

  validation {
    condition     = alltrue([for secret in values(var.secrets) : !startswith(secret.path, "data/")])
    error_message = "secrets has a path that starts with data/: leave out data/, because the build adds it for version 2 of the KV engine."
  }

  validation {
    condition     = alltrue([for place in flatten([for secret in values(var.secrets) : [secret.path, secret.mount]]) : length(regexall("(^|/)\\.+(/|$)", place)) == 0])
    error_message = "secrets has a path or mount with a part of dots only, which would lead to another path: write the whole path."
  }

  validation {
    condition     = alltrue([for secret in values(var.secrets) : can(regex("^[^/[:space:]]+(/[^/[:space:]]+)*$", secret.mount))])
    error_message = "secrets has a mount that is empty, starts or ends with a slash, or contains a space: write it as in \"secret\" or \"team/kv\"."
  }

  validation {
    condition     = alltrue([for secret in values(var.secrets) : try(length(secret.field) > 0, false)])
    error_message = "secrets has an empty field: name the key within the secret."
  }

  validation {
    condition     = alltrue([for secret in values(var.secrets) : secret.version == null || try(secret.version >= 1 && floor(secret.version) == secret.version, false)])
    error_message = "secrets has a version that is not a whole number from 1: leave it out to read the latest version."
  }

  validation {
    condition     = length(var.secrets) == 0 || var.vault.kv_version != 1 || alltrue([for secret in values(var.secrets) : secret.version == null])
    error_message = "secrets asks for a version while vault.kv_version is 1: only version 2 of the KV engine keeps versions."
  }
}

variable "vault" {
  description = <<-EOT
    Where and how the build logs in to Vault. If you leave out a setting, the build uses Vault's standard environment variable (`VAULT_ADDR`, `VAULT_TOKEN`, `VAULT_NAMESPACE`, `VAULT_CACERT` and so on).

    - `address` - URL of the server.
    - `namespace` - Namespace (Vault Enterprise, HCP).
    - `kv_version` - Version of the KV engine, 1 or 2. `null` asks the server.
    - `ca_certificate_file` - PEM file of the authority that signed the server's certificate.
    - `auth` - How to log in:
      - `method` - `token`, `approle`, `jwt` or `aws`.
      - `mount` - Path of the auth method, if it differs from the method's name.
      - `role` - Role to log in as, for `jwt` and `aws`. `null` uses the mount's default role.
      - `role_id_file`, `secret_id_file` - Files with the role id and the secret id, for `approle`. `null` uses `VAULT_ROLE_ID` and `VAULT_SECRET_ID`.
      - `jwt_file` - File with the token, for `jwt`.
      - `jwt_env` - Name of the environment variable with the token, for `jwt`. `null` uses `VAULT_JWT`.
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
    condition     = var.vault.address == null || can(regex(local.url_pattern, var.vault.address)) && can(regex("^https?://[^/]+/?$", var.vault.address))
    error_message = "vault.address is ${jsonencode(try(replace(var.vault.address, local.password_in_url, "//...@"), null))}: it must be a URL that starts with http:// or https://, with a port from 1 to 65535 or none, and without a path, such as \"https://vault.example.com:8200\"."
  }

  validation {
    condition     = var.vault.kv_version == null || try(contains([1, 2], var.vault.kv_version), false)
    error_message = "vault.kv_version is ${jsonencode(var.vault.kv_version)}: it must be 1 or 2, or null to ask the server."
  }

  validation {
    condition     = contains(["token", "approle", "jwt", "aws"], var.vault.auth.method)
    error_message = "vault.auth.method is ${jsonencode(var.vault.auth.method)}: it must be token, approle, jwt or aws."
  }

  # The build would ignore an attribute of another method, so refuse it.
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
    error_message = "vault.auth has an attribute that the method ${jsonencode(var.vault.auth.method)} does not use. token uses none; approle uses mount, role_id_file and secret_id_file; jwt uses mount, role, jwt_file and jwt_env; aws uses mount, role, aws_header_value and aws_region."
  }

  validation {
    condition     = var.vault.auth.jwt_file == null || var.vault.auth.jwt_env == null
    error_message = "vault.auth.jwt_file and vault.auth.jwt_env are both set: give one of them."
  }

  # The value could be the token itself, so the message does not repeat it.
  validation {
    condition     = var.vault.auth.jwt_env == null || can(regex("^[A-Za-z_][A-Za-z0-9_]*$", var.vault.auth.jwt_env))
    error_message = "vault.auth.jwt_env must be the name of an environment variable, not the token itself."
  }
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that seals the secrets. If it is `null` and there are secrets, the module creates a key. The identity that runs the build needs `kms:Encrypt` and `kms:GenerateDataKey` on the key."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex(local.key_arn_pattern, var.kms_key_arn))
    error_message = "kms_key_arn is ${jsonencode(var.kms_key_arn)}: it must be the ARN of a key, such as \"arn:aws:kms:eu-west-1:123456789012:key/...\". IAM policies do not work with aliases."
  }
}

variable "create_kms_key" {
  description = "Create the key that seals the secrets. `null` creates it unless `kms_key_arn` is given. Set it to `false` if the same apply creates the key of `kms_key_arn`, so that its ARN is unknown at plan."
  type        = bool
  default     = null

  validation {
    condition     = var.create_kms_key != true || var.kms_key_arn == null
    error_message = "create_kms_key is true and kms_key_arn is given: only one key can seal the secrets. Leave one of them out."
  }

  validation {
    condition     = var.create_kms_key != false || var.kms_key_arn != null || !local.has_secrets
    error_message = "create_kms_key is false, and there are secrets without kms_key_arn: give the ARN of a key to seal them with."
  }
}

variable "inventory" {
  description = <<-EOT
    The DynamoDB table that records the addresses, names and tags of each instance, because EC2 forgets an instance soon after its termination.

    - `enabled` - Create and use the table. Without it, the function knows only what EC2, Chef and Consul still know.
    - `retention_days` - Days to keep a terminated instance and its report, 1 to 3650.
    - `deletion_protection` - Protect the table from deletion.
    - `kms_key_arn` - Key that encrypts the table. `null` uses the AWS-managed key.
  EOT
  type = object({
    enabled             = optional(bool, true)
    retention_days      = optional(number, 30)
    deletion_protection = optional(bool, false)
    kms_key_arn         = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.inventory.retention_days >= 1 && var.inventory.retention_days <= 3650 && floor(var.inventory.retention_days) == var.inventory.retention_days
    error_message = "inventory.retention_days is ${var.inventory.retention_days}: it must be a whole number from 1 to 3650."
  }

  validation {
    condition     = var.inventory.retention_days * 86400 >= var.queue.message_retention_seconds
    error_message = "inventory.retention_days is ${var.inventory.retention_days}, shorter than queue.message_retention_seconds: an event could outlive the record of its instance."
  }

  validation {
    condition     = var.inventory.kms_key_arn == null || can(regex(local.key_arn_pattern, var.inventory.kms_key_arn))
    error_message = "inventory.kms_key_arn is ${jsonencode(var.inventory.kms_key_arn)}: it must be the ARN of a key, such as \"arn:aws:kms:eu-west-1:123456789012:key/...\"."
  }
}

variable "sweep" {
  description = <<-EOT
    The scheduled search for terminations whose event was lost. It needs the inventory and is off without it. Each account and region has its own sweep and its own brake.

    - `enabled` - Run the sweep.
    - `schedule_expression` - When to run, as in EventBridge: `rate(1 hour)` or `cron(0 3 * * ? *)`.
    - `max_instances` - The brake: maximum number of instances that one sweep may decommission, 1 to 10000. Above it, the sweep removes nothing and fails visibly.
    - `max_fraction` - The same limit as a share of the recorded fleet, 0.001 to 1.
    - `adopt` - Systems whose nodes may carry ids of instances that ended before the inventory recorded them: `chef`, `consul`, or both. A node is removed if neither the inventory nor EC2 knows its EC2 instance id, unless the node names another account or region, converged within the last 24 hours (Chef), or has a live agent (Consul). Name a system only if its server serves only the function's own account and region, or if its nodes carry their location (Chef: `ec2.region`, the availability zone, a DNS name of EC2, `ec2.account_id`; Consul: node meta `region`, `availability_zone`, `account_id`). Adopted instances count for the brake.
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
    error_message = "sweep.schedule_expression is ${jsonencode(var.sweep.schedule_expression)}: it must be like rate(1 hour) or rate(12 hours) (singular for 1, plural above), or cron() with six fields."
  }

  # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-scheduled-rule-pattern.html
  validation {
    condition     = !startswith(var.sweep.schedule_expression, "cron(") || can(regex("^cron\\([^ ]+ [^ ]+ (\\? [^ ]+ [^ ?]+|[^ ?]+ [^ ]+ \\?) [^ ]+\\)$", var.sweep.schedule_expression))
    error_message = "sweep.schedule_expression is ${jsonencode(var.sweep.schedule_expression)}: in cron(), exactly one of the third field (day of the month) and the fifth (day of the week) must be ?, as in cron(0 3 * * ? *)."
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
    error_message = "sweep.adopt is ${jsonencode(var.sweep.adopt)}: it may contain chef and consul, the systems whose nodes have EC2 instance ids."
  }

  validation {
    condition     = (!contains(var.sweep.adopt, "chef") || var.chef.enabled == true) && (!contains(var.sweep.adopt, "consul") || var.consul.enabled == true)
    error_message = "sweep.adopt is ${jsonencode(var.sweep.adopt)}, and a step that it names is off, so that system would be neither searched nor cleaned up. Set chef.enabled or consul.enabled to true, or leave the system out."
  }

  validation {
    condition     = length(var.sweep.adopt) == 0 || length(var.instance_filter.include_tags) + length(var.instance_filter.exclude_tags) == 0
    error_message = "sweep.adopt is ${jsonencode(var.sweep.adopt)} together with instance_filter: the tags of an unrecorded instance are unknown, so the filter cannot apply to it. Leave one of them empty."
  }
}

variable "queue" {
  description = <<-EOT
    Delivery of the events.

    The wait before a retry starts at `retry_delay_seconds` and doubles up to `max_retry_delay_seconds`. With the defaults it is 60, 120, 240, 480, 960 and 1920 s, then 3600 s: 3780 s + 23 x 3600 s = 86580 s over the 29 waits between 30 tries. An event survives an outage of 24 hours, or of 12 hours if every wait is cut in half. `effective_config.queue.longest_outage_seconds` shows the sum for other values.

    - `batch_size` - Maximum number of events in one invocation, 1 to 10000. One invocation reads a zone once for all its events, so large batches take the fewest requests (docs/benchmarks.md).
    - `batch_window_seconds` - Time to wait for a batch to fill, 0 to 300. A `batch_size` above 10 needs at least 1.
    - `max_concurrency` - Maximum number of concurrent invocations, 2 to 1000.
    - `max_receive_count` - Tries before an event goes to the dead-letter queue, 1 to 1000.
    - `retry_delay_seconds` - Wait before the first retry, 1 to 900.
    - `max_retry_delay_seconds` - Longest wait before a retry, up to 36000.
    - `visibility_timeout_seconds` - Time after which SQS delivers an event again if an invocation did not answer. At least 6 times `function.timeout`, up to 43200. `null` is 6 times `function.timeout` plus the window.
    - `message_retention_seconds` - Time that the queue keeps an event, 3600 to 1209600. The dead-letter queue keeps it until 14 days after the event.
    - `kms_key_arn` - Key that encrypts both queues. Its policy must allow `events.amazonaws.com` `kms:GenerateDataKey` and `kms:Decrypt`. `null` uses the key of SQS.
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
    kms_key_arn                = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition = alltrue([
      for name, value in var.queue : try(floor(value) == value, value == null) if name != "kms_key_arn"
    ])
    error_message = "queue has a number with a fraction: all its numbers must be whole numbers."
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
    error_message = "queue.max_concurrency is ${var.queue.max_concurrency}, more than function.reserved_concurrent_executions: throttled events would run out of tries."
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

  # SQS silently drops a message at this age.
  validation {
    condition = sum(concat([0], [
      for try in range(max(0, min(var.queue.max_receive_count, 1000) - 1)) :
      min(var.queue.max_retry_delay_seconds, var.queue.retry_delay_seconds * pow(2, min(try, 20)))
    ])) < var.queue.message_retention_seconds
    error_message = "queue: the waits between ${var.queue.max_receive_count} tries add up to more than queue.message_retention_seconds (${var.queue.message_retention_seconds}), so SQS would drop an event before it reaches the dead-letter queue. Lower max_receive_count or max_retry_delay_seconds."
  }

  validation {
    condition     = var.queue.kms_key_arn == null || can(regex(local.key_arn_pattern, var.queue.kms_key_arn))
    error_message = "queue.kms_key_arn is ${jsonencode(var.queue.kms_key_arn)}: it must be the ARN of a key, such as \"arn:aws:kms:eu-west-1:123456789012:key/...\"."
  }
}

variable "function" {
  description = <<-EOT
    The Lambda function.

    - `runtime` - `python3.11`, `python3.12`, `python3.13` or `python3.14`. AWS provider 5 does not accept `python3.14`.
    - `architecture` - `arm64` or `x86_64`.
    - `memory_size` - MiB, 128 to 10240. CPU grows with memory. `null` gives one full CPU (1769), or more above 1,000 places. The function needs about 150 MiB plus 1.5 MiB per place; more memory makes it faster.
    - `timeout` - Seconds that one invocation may take, 30 to 900.
    - `log_level` - `DEBUG`, `INFO`, `WARNING` or `ERROR`.
    - `reserved_concurrent_executions` - Concurrency reserved for the function, at least `queue.max_concurrency`. `null` reserves none.
    - `tracing_mode` - `PassThrough`, or `Active` to write X-Ray traces.
    - `role_path` - Path of the roles that the module creates, such as `/service/`.
    - `role_arn` - A role of your own. The module then creates no role and no policy; the output `function_policy_json` is the policy that your role needs.
    - `create_role` - Create the role. `null` creates it unless `role_arn` is given. Set it to `false` if the same apply creates the role of `role_arn`, so that its ARN is unknown at plan.
    - `environment_kms_key_arn` - Key that encrypts the environment variables. `null` uses the key of Lambda. The environment contains no secret.
    - `code_signing_config_arn` - Code signing configuration, for `package.type` `prebuilt` and `s3` only: a package that the apply builds is not signed.
  EOT
  type = object({
    runtime                        = optional(string, "python3.13")
    architecture                   = optional(string, "arm64")
    memory_size                    = optional(number)
    timeout                        = optional(number, 120)
    log_level                      = optional(string, "INFO")
    reserved_concurrent_executions = optional(number)
    tracing_mode                   = optional(string, "PassThrough")
    role_path                      = optional(string, "/")
    role_arn                       = optional(string)
    create_role                    = optional(bool)
    environment_kms_key_arn        = optional(string)
    code_signing_config_arn        = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["python3.11", "python3.12", "python3.13", "python3.14"], var.function.runtime)
    error_message = "function.runtime is ${jsonencode(var.function.runtime)}: it must be python3.11, python3.12, python3.13 or python3.14."
  }

  validation {
    condition     = contains(["arm64", "x86_64"], var.function.architecture)
    error_message = "function.architecture is ${jsonencode(var.function.architecture)}: it must be arm64 or x86_64."
  }

  validation {
    condition     = var.function.memory_size == null || try(var.function.memory_size >= 128 && var.function.memory_size <= 10240 && floor(var.function.memory_size) == var.function.memory_size, false)
    error_message = "function.memory_size is ${coalesce(var.function.memory_size, 0)}: it must be a whole number of MiB from 128 to 10240, or null."
  }

  validation {
    condition     = var.function.timeout >= 30 && var.function.timeout <= 900 && floor(var.function.timeout) == var.function.timeout
    error_message = "function.timeout is ${var.function.timeout}: it must be a whole number of seconds from 30 to 900."
  }

  validation {
    condition     = contains(["DEBUG", "INFO", "WARNING", "ERROR"], var.function.log_level)
    error_message = "function.log_level is ${jsonencode(var.function.log_level)}: it must be DEBUG, INFO, WARNING or ERROR, in uppercase."
  }

  validation {
    condition     = var.function.reserved_concurrent_executions == null || try(var.function.reserved_concurrent_executions >= 2 && floor(var.function.reserved_concurrent_executions) == var.function.reserved_concurrent_executions, false)
    error_message = "function.reserved_concurrent_executions must be a whole number of at least 2 and at least queue.max_concurrency, or null to reserve none."
  }

  validation {
    condition     = contains(["PassThrough", "Active"], var.function.tracing_mode)
    error_message = "function.tracing_mode is ${jsonencode(var.function.tracing_mode)}: it must be PassThrough or Active."
  }

  validation {
    condition     = can(regex("^/([!-.0-~]+/)*$", var.function.role_path)) && length(var.function.role_path) <= 512
    error_message = "function.role_path is ${jsonencode(var.function.role_path)}: it must start and end with a slash, such as \"/service/\"."
  }

  validation {
    condition     = var.function.role_arn == null || can(regex(local.role_arn_pattern, var.function.role_arn))
    error_message = "function.role_arn is ${jsonencode(var.function.role_arn)}: it must be the ARN of a role, such as \"arn:aws:iam::123456789012:role/decommission\"."
  }

  validation {
    condition     = var.function.create_role == null || var.function.create_role != (var.function.role_arn != null)
    error_message = "function.create_role is ${jsonencode(var.function.create_role)} and function.role_arn is ${jsonencode(var.function.role_arn)}: either give a role of your own, or let the module create one."
  }

  validation {
    condition     = var.function.environment_kms_key_arn == null || can(regex(local.key_arn_pattern, var.function.environment_kms_key_arn))
    error_message = "function.environment_kms_key_arn is ${jsonencode(var.function.environment_kms_key_arn)}: it must be the ARN of a key, such as \"arn:aws:kms:eu-west-1:123456789012:key/...\"."
  }

  validation {
    condition     = var.function.code_signing_config_arn == null || can(regex("^arn:[^:]+:lambda:[a-z0-9-]+:[0-9]{12}:code-signing-config:csc-[a-z0-9]+$", var.function.code_signing_config_arn))
    error_message = "function.code_signing_config_arn is ${jsonencode(var.function.code_signing_config_arn)}: it must be the ARN of a code signing configuration, such as \"arn:aws:lambda:eu-west-1:123456789012:code-signing-config:csc-0123456789abcdef0\"."
  }
}

variable "package" {
  description = <<-EOT
    The code that the function runs.

    - `type` - `build` (built by this apply, which needs Python 3.11 or later and network access, but no Docker), `prebuilt` (a zip file) or `s3` (an S3 object).
    - `zip_file` - For `prebuilt`: path of the zip file, preferably relative to the root module.
    - `s3` - For `s3`: `bucket`, `key` and `object_version` of the object.
    - `code_sha256` - For `prebuilt` and `s3`: SHA-256 of the zip in base64 (`openssl dgst -sha256 -binary package.zip | base64`). If it changes, Terraform updates the code. For `prebuilt`, `null` reads the file at each plan.
    - `bundle_included` - For `prebuilt` and `s3`: the zip already contains the sealed secrets and the settings, because it was built for this deployment (`make package`). With `false`, the apply seals them into a small Lambda layer, so that one zip serves all deployments.
    - `python` - Python to build with, by name or path.
    - `build_role_arn` - Role that the build assumes to seal the secrets. The build uses the credentials of its environment, not a role that the provider assumes.
    - `ca_bundle_file` - PEM file of certificate authorities that the function trusts in addition to the public ones, for Chef, Consul and HTTP steps.
    - `output_dir` - Directory to build in. `null` is `.terraform/ec2-decommission` in the root module.
    - `rebuild` - Any string. When it changes, the package is built again, for example after the rotation of a secret. For `prebuilt` and `s3` this seals the secrets again and leaves the code alone.
  EOT
  type = object({
    type     = optional(string, "build")
    zip_file = optional(string)
    s3 = optional(object({
      bucket         = string
      key            = string
      object_version = optional(string)
    }))
    code_sha256     = optional(string)
    bundle_included = optional(bool, false)
    python          = optional(string, "python3")
    build_role_arn  = optional(string)
    ca_bundle_file  = optional(string)
    output_dir      = optional(string)
    rebuild         = optional(string, "")
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["build", "prebuilt", "s3"], var.package.type)
    error_message = "package.type is ${jsonencode(var.package.type)}: it must be build, prebuilt or s3."
  }

  validation {
    condition     = (var.package.type == "prebuilt") == (var.package.zip_file != null)
    error_message = "package.zip_file is required with package.type = \"prebuilt\", and allowed only there."
  }

  validation {
    condition     = (var.package.type == "s3") == (var.package.s3 != null)
    error_message = "package.s3 (bucket, key, object_version) is required with package.type = \"s3\", and allowed only there."
  }

  validation {
    condition     = var.package.type != "s3" || try(var.package.s3.object_version, null) != null || var.package.code_sha256 != null
    error_message = "package.type is s3 without package.s3.object_version and package.code_sha256: give one of them, or Terraform would not notice a new object under the same key."
  }

  validation {
    condition     = var.package.code_sha256 == null || can(regex("^[A-Za-z0-9+/]{43}=$", var.package.code_sha256))
    error_message = "package.code_sha256 is ${jsonencode(var.package.code_sha256)}: it must be the SHA-256 of the zip in base64 (44 characters that end with \"=\"), not in hexadecimal."
  }

  validation {
    condition     = var.package.type != "build" || var.package.code_sha256 == null && !var.package.bundle_included
    error_message = "package.code_sha256 or package.bundle_included is given with package.type = \"build\": they describe a zip that was built elsewhere."
  }

  # Terraform would ignore an attribute of the build, so refuse it.
  validation {
    condition     = var.package.type == "build" || !var.package.bundle_included && (local.has_secrets || local.has_settings || var.package.ca_bundle_file != null) || var.package.ca_bundle_file == null && var.package.build_role_arn == null && var.package.output_dir == null && var.package.rebuild == ""
    error_message = "package.type is ${jsonencode(var.package.type)} with ca_bundle_file, build_role_arn, output_dir or rebuild, but this apply builds nothing: there are no secrets and settings to seal, or package.bundle_included says that the zip contains them. Use these attributes where the zip is built (make package)."
  }

  validation {
    condition     = var.package.type == "build" || !var.package.bundle_included || var.kms_key_arn != null || !local.has_secrets
    error_message = "package.bundle_included is true with secrets but without kms_key_arn: the zip was sealed before this apply, so name the key that it was sealed with."
  }

  validation {
    condition     = var.function.code_signing_config_arn == null || var.package.type != "build" && (var.package.bundle_included || !local.has_secrets && !local.has_settings && var.package.ca_bundle_file == null)
    error_message = "package.type is ${jsonencode(var.package.type)} with function.code_signing_config_arn: Lambda refuses unsigned code and layers, and the apply does not sign what it builds. Use prebuilt or s3 with a signed zip, and with package.bundle_included = true if there are secrets, HTTP steps, an organization or a CA bundle."
  }

  validation {
    condition     = var.package.build_role_arn == null || can(regex(local.role_arn_pattern, var.package.build_role_arn))
    error_message = "package.build_role_arn is ${jsonencode(var.package.build_role_arn)}: it must be the ARN of a role, such as \"arn:aws:iam::123456789012:role/build\"."
  }

  validation {
    condition     = var.package.ca_bundle_file == null || try(fileexists(var.package.ca_bundle_file), false)
    error_message = "package.ca_bundle_file is ${jsonencode(var.package.ca_bundle_file)}, but that file does not exist."
  }

  validation {
    condition     = length(trimspace(coalesce(var.package.python, " "))) > 0
    error_message = "package.python is empty: name the Python to build with, such as python3."
  }
}

variable "log_group" {
  description = <<-EOT
    The function's log group.

    - `retention_in_days` - Days that logs are kept: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653, or 0 to keep them forever.
    - `kms_key_arn` - Key that encrypts the logs. Its policy must allow CloudWatch Logs to use it. `null` uses the key of CloudWatch Logs.
  EOT
  type = object({
    retention_in_days = optional(number, 30)
    kms_key_arn       = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains([0, 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_group.retention_in_days)
    error_message = "log_group.retention_in_days is ${var.log_group.retention_in_days}: CloudWatch allows 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653, and 0 for forever."
  }

  validation {
    condition     = var.log_group.kms_key_arn == null || can(regex(local.key_arn_pattern, var.log_group.kms_key_arn))
    error_message = "log_group.kms_key_arn is ${jsonencode(var.log_group.kms_key_arn)}: it must be the ARN of a key, such as \"arn:aws:kms:eu-west-1:123456789012:key/...\"."
  }
}

variable "alarms" {
  description = <<-EOT
    CloudWatch alarms: dead letters, events that wait or fail for a long time, undelivered events, errors and throttles of the function, configuration errors, the sweep's brake, failing sweeps. `docs/runbook.md` has a page for each.

    - `enabled` - Create them.
    - `actions` - ARNs to notify when an alarm starts and when it ends, such as an SNS topic. At most 5.
    - `runbook_url` - URL of your copy of `docs/runbook.md`. The description of each alarm links to its page there.
    - `oldest_message_age_seconds` - Age of an unfinished event at which the alarms `oldest-message` and `unfinished` start, 60 to 1209600.
  EOT
  type = object({
    enabled                    = optional(bool)
    actions                    = optional(list(string), [])
    runbook_url                = optional(string)
    oldest_message_age_seconds = optional(number, 3600)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for arn in var.alarms.actions : can(regex("^arn:[^:]+:[a-z0-9-]+:[^:]*:[^:]*:.+$", arn))])
    error_message = "alarms.actions contains a value that is not an ARN: give ARNs, such as that of an SNS topic."
  }

  validation {
    condition     = length(var.alarms.actions) <= 5
    error_message = "alarms.actions contains ${length(var.alarms.actions)} ARNs: CloudWatch allows at most 5."
  }

  validation {
    condition     = var.alarms.runbook_url == null || can(regex("^https?://[^#[:space:]]{1,300}$", var.alarms.runbook_url))
    error_message = "alarms.runbook_url is ${jsonencode(var.alarms.runbook_url)}: it must be a URL that starts with http:// or https://, without a fragment (#...): the alarm's name is added as the fragment."
  }

  validation {
    condition     = var.alarms.oldest_message_age_seconds >= 60 && var.alarms.oldest_message_age_seconds <= 1209600
    error_message = "alarms.oldest_message_age_seconds is ${var.alarms.oldest_message_age_seconds}: it must be from 60 to 1209600."
  }
}

variable "dashboard" {
  description = <<-EOT
    A CloudWatch dashboard: removals and failures by step, the queue, the function, the sweep, the last failures.

    - `enabled` - Create it.
  EOT
  type = object({
    enabled = optional(bool, false)
  })
  default  = {}
  nullable = false
}

variable "result_events" {
  description = <<-EOT
    Results as EventBridge events with the source `ec2-decommission`: an instance was decommissioned, its decommission failed, or the brake stopped a sweep.

    - `enabled` - Send them.
    - `event_bus_name` - Name or ARN of the event bus.
  EOT
  type = object({
    enabled        = optional(bool)
    event_bus_name = optional(string, "default")
  })
  default  = {}
  nullable = false

  validation {
    condition     = can(regex("^(arn:[^:]+:events:[a-z0-9-]+:[0-9]{12}:event-bus/)?[A-Za-z0-9._/-]{1,256}$", var.result_events.event_bus_name))
    error_message = "result_events.event_bus_name is ${jsonencode(var.result_events.event_bus_name)}: it must be the name or the ARN of an event bus, such as \"default\"."
  }
}

variable "audit" {
  description = <<-EOT
    Saves each object to S3 before its removal, so that it can be restored. `null` saves nothing. Encryption and lifecycle are settings of the bucket.

    - `bucket` - Name of the bucket.
    - `prefix` - Prefix of all keys.
    - `kms_key_arn` - Key that encrypts the bucket, if it has its own key. The function gets permission to use it.
  EOT
  type = object({
    bucket      = string
    prefix      = optional(string, "ec2-decommission/")
    kms_key_arn = optional(string)
  })
  default = null

  validation {
    condition     = var.audit == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.audit.bucket))
    error_message = "audit.bucket is ${jsonencode(try(var.audit.bucket, null))}: it must be the name of a bucket, 3 to 63 lowercase letters, digits, dots and hyphens."
  }

  validation {
    condition     = var.audit == null || can(regex("^([A-Za-z0-9!_.'()=-][A-Za-z0-9!_.'()=/-]*)?$", var.audit.prefix)) && length(try(var.audit.prefix, "")) <= 512
    error_message = "audit.prefix is ${jsonencode(try(var.audit.prefix, null))}: it must have at most 512 letters, digits and any of ! _ . ' ( ) = / -, and must not start with a slash."
  }

  validation {
    condition     = try(var.audit.kms_key_arn, null) == null || can(regex(local.key_arn_pattern, var.audit.kms_key_arn))
    error_message = "audit.kms_key_arn is ${jsonencode(try(var.audit.kms_key_arn, null))}: it must be the ARN of a key, such as \"arn:aws:kms:eu-west-1:123456789012:key/...\"."
  }
}

variable "permissions_boundary_arn" {
  description = "ARN of the permissions boundary of the function's role. `null` sets none."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary_arn == null || can(regex("^arn:[^:]+:iam::([0-9]{12}|aws):policy/.+$", var.permissions_boundary_arn))
    error_message = "permissions_boundary_arn is ${jsonencode(var.permissions_boundary_arn)}: it must be the ARN of a policy, such as \"arn:aws:iam::123456789012:policy/boundary\"."
  }
}

variable "tags" {
  description = "Tags of all resources that can have tags."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(var.tags) <= 50
    error_message = "tags has ${length(var.tags)} tags: AWS allows at most 50 on a resource."
  }

  validation {
    condition     = alltrue([for key in keys(var.tags) : length(key) >= 1 && length(key) <= 128 && !startswith(lower(key), "aws:")])
    error_message = "tags has a key that AWS refuses: a key has 1 to 128 characters and does not start with \"aws:\"."
  }

  validation {
    condition     = alltrue([for value in values(var.tags) : try(length(value) <= 256, false)])
    error_message = "tags has a value that AWS refuses: a value has at most 256 characters and is not null."
  }
}
