# Rejected references to secrets, and rejected ways to them.

run "rejects_unknown_secret" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets     = { chef_key = { path = "chef" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.secrets]
}

run "rejects_path_with_leading_slash" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets     = { consul_token = { path = "/chef" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.secrets]
}

run "rejects_path_with_trailing_slash" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets     = { consul_token = { path = "chef/" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.secrets]
}

run "rejects_empty_path" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets     = { consul_token = { path = "" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.secrets]
}

run "rejects_path_with_data_prefix" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets     = { consul_token = { path = "data/chef" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.secrets]
}

run "rejects_mount_with_a_slash_at_its_end" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets     = { consul_token = { mount = "secret/", path = "chef" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.secrets]
}

run "rejects_path_that_climbs" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets     = { consul_token = { path = "a/../b" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.secrets]
}

run "rejects_mount_that_climbs" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets     = { consul_token = { mount = "..", path = "b" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.secrets]
}

run "rejects_empty_field" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets     = { consul_token = { path = "chef", field = "" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.secrets]
}

run "rejects_version_zero" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets     = { consul_token = { path = "chef", version = 0 } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.secrets]
}

run "rejects_half_a_version" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets     = { consul_token = { path = "chef", version = 1.5 } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.secrets]
}

run "rejects_version_where_the_engine_keeps_none" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets     = { consul_token = { path = "chef", version = 2 } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
    vault       = { kv_version = 1 }
  }

  expect_failures = [var.secrets]
}

run "rejects_vault_address_without_scheme" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vault = { address = "vault:8200" }
  }

  expect_failures = [var.vault]
}

run "rejects_vault_address_with_a_path" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vault = { address = "https://vault:8200/v1" }
  }

  expect_failures = [var.vault]
}

run "rejects_kv_version_3" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vault = { kv_version = 3 }
  }

  expect_failures = [var.vault]
}

run "rejects_unknown_auth_method" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vault = { auth = { method = "ldap" } }
  }

  expect_failures = [var.vault]
}

run "rejects_auth_attribute_of_another_method" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vault = { auth = { method = "approle", role = "r" } }
  }

  expect_failures = [var.vault]
}

run "rejects_auth_attribute_without_a_method" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vault = { auth = { role_id_file = "role-id" } }
  }

  expect_failures = [var.vault]
}

run "rejects_token_in_place_of_its_variable" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vault = { auth = { method = "jwt", jwt_env = "eyJhbGciOi.x.y" } }
  }

  expect_failures = [var.vault]
}

run "rejects_jwt_with_two_tokens" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vault = { auth = { method = "jwt", role = "r", jwt_env = "CI_JWT", jwt_file = "jwt" } }
  }

  expect_failures = [var.vault]
}

run "rejects_key_alias" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    kms_key_arn = "alias/my-key"
  }

  expect_failures = [var.kms_key_arn]
}

run "rejects_key_id_without_arn" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    kms_key_arn = "0f1e2d3c-0000-0000-0000-000000000000"
  }

  expect_failures = [var.kms_key_arn]
}

run "rejects_key_made_beside_a_given_one" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    create_kms_key = true
    kms_key_arn    = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.create_kms_key]
}

run "rejects_secrets_without_any_key" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    create_kms_key = false
    secrets        = { consul_token = { path = "consul" } }
  }

  expect_failures = [var.create_kms_key]
}

run "rejects_vault_address_with_a_port_above_65535" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vault = { address = "https://vault.example.com:82000" }
  }

  expect_failures = [var.vault]
}

run "rejects_auth_mount_for_a_token" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vault = { auth = { mount = "team/token" } }
  }

  expect_failures = [var.vault]
}

run "rejects_auth_role_for_a_token" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vault = { auth = { method = "token", role = "ci" } }
  }

  expect_failures = [var.vault]
}
