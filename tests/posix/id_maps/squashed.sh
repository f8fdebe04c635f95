# Root is taken for 5001, which is 1001 here, and 1001 to 1010 are 5001 to 5010; 1020 is root there, which nobody may be.

mkdir "$there/all" && chmod 777 "$there/all"

echo "--- root is that user"
h touch all/file
show all/file
h chown 1002 all/file
h chown 1001:1001 all/file
t bash -c 'echo text > all/theirs; chown 5002:5002 all/theirs; chmod 600 all/theirs'
h cat all/theirs
h chmod 644 all/theirs
t chown 5001:5001 all/theirs
h cat all/theirs

echo "--- others are who they are"
h as 1002:1003 touch all/user
h as 1002:1003 chmod 600 all/user
show all/user
h as 1002:1003 cat all/user
h cat all/user

echo "--- who is mapped to root is not root either"
h as 1020:1020 mkdir all/made
show all/made
t bash -c 'echo text > all/secret; chmod 600 all/secret'
h as 1020:1020 cat all/secret
h as 1020:1020 chmod 644 all/secret
