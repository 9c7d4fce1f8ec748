"""`cascade explore`: a page on which one looks at users, their slates, and the reasons for them."""
