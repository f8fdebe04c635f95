# What is not as Linux has it. 1001 to 1010 are 5001 to 5010 there, and nothing else is said.

mkdir "$there/all" && chmod 777 "$there/all"

echo "--- whom no range names has the same number there"
h as 7001:7002 touch all/file
h as 65534:65534 mkdir all/nobody
h touch all/root
h chown 7003:65534 all/root
show all/file all/nobody all/root
h setfacl -m u:7004:r all/file
acls all/file

echo "--- with a number that is nobody's nothing can be given"
h chown 4294967294 all/root
h setfacl -m u:4294967294:r all/root
