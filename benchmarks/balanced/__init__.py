"""Does a balanced multilingual student of monolingual teachers do better on low-resource languages, and as well on others?"""
