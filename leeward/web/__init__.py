"""What the services' web apps share: access, problem documents, paging, security headers, the look."""
