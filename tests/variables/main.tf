# The module's inputs without its resources (variables.tf is a link): what refuses an input needs no
# provider, and is proven in milliseconds.
terraform {
  required_version = ">= 1.9"
}
